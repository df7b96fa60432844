import json

import pytest
import torch
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from ovparts_lib.checkpoints.backbones import load_resnet_into
from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.backbones.resnet import ResNet, ResNetSize
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.systems.zsseg_plus import SYSTEM
from ovparts_lib.systems.zsseg_plus.weights import (
    initialise,
    load_prompts_into,
    load_zsseg_plus,
    released_names,
    save_prompts,
)
from tests.golden.released_zsseg_plus import FOLDER
from tests.systems.zsseg_plus.tiny import CLIP, TINY_ZSSEG_PLUS, tiny_zsseg_plus

SIZE = ResNetSize((1, 2, 1, 1), multi_grid=(1,))
PROMPTS = json.loads((FOLDER / "cpt_coop_prompt.manifest.json").read_text(encoding="utf-8"))["keys"]


def released_state(model, classes):
    """What the released code would have written of a model: CLIP in half precision, and what we have no use for."""
    state = {name: tensor.clone() for name, tensor in released_names(model.state_dict()).items()}
    for name in state:
        if name.startswith("clip_adapter.clip_model.") and state[name].ndim > 1:
            state[name] = state[name].half()
    learner = "clip_adapter.prompt_learner."
    return state | {
        "criterion.empty_weight": torch.ones(classes + 1),
        "clip_adapter.fuse_weight": torch.tensor(9.0),
        f"{learner}ss_signal": torch.zeros(1, 16).half(),
        f"{learner}pad_signal": torch.zeros(1, 16).half(),
    }


def saved(state, path):
    torch.save({"model": state, "iteration": 1, "optimizer": {}}, path)
    return path


@pytest.mark.parametrize("classes", [74, 176])
def test_released_files_of_either_dataset(tmp_path, classes):
    source = tiny_zsseg_plus(1)
    path = saved(released_state(source, classes), tmp_path / "model.pth")
    model, report = load_zsseg_plus(path, TINY_ZSSEG_PLUS)
    assert len(report.dropped) == 4
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, source.state_dict()[name], atol=1e-3), name
    assert float(model.prompt_learner.fuse_weight) == pytest.approx(0.6)


def test_our_own_files_say_what_they_are(tmp_path):
    source = tiny_zsseg_plus(2, conditional=True)
    path = SYSTEM.save(source, tmp_path / "weights.safetensors", note="x")
    model, _ = load_zsseg_plus(path, ensemble_weight=0.3)
    assert model.size == TINY_ZSSEG_PLUS
    assert model.prompt_learner.conditional and model.ensemble_weight == 0.3
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_wrong_files_are_refused(tmp_path):
    state = released_state(tiny_zsseg_plus(), 74)
    del state["clip_adapter.prompt_learner.dot_signal"]
    with pytest.raises(CheckpointError, match=r"1 missing: clip_adapter\.prompt_learner\.dot_signal"):
        load_zsseg_plus(saved(state, tmp_path / "a.pth"), TINY_ZSSEG_PLUS)
    with pytest.raises(CheckpointError, match=r"is no ZSSeg\+ checkpoint"):
        load_zsseg_plus(saved({"a": torch.zeros(1)}, tmp_path / "b.pth"))
    other = save_weights({"a": torch.zeros(1)}, tmp_path / "c.safetensors", {"system": "catseg"})
    with pytest.raises(CheckpointError, match="holds weights of 'catseg'"):
        load_zsseg_plus(other)
    with pytest.raises(CheckpointError, match="brings its own CLIP"):
        load_zsseg_plus(saved(released_state(tiny_zsseg_plus(), 74), tmp_path / "d.pth"), clip_path="clip.pt")


def prompt_file(width=16):
    """The released file's tensors by its manifest, in another width."""
    torch.manual_seed(5)
    shapes = {name: [width if side == 512 else side for side in facts["shape"]] for name, facts in PROMPTS.items()}
    return {name: torch.randn(shape).to(getattr(torch, PROMPTS[name]["dtype"])) for name, shape in shapes.items()} | {
        "optimizer.prompt": torch.zeros(3)
    }


def test_the_released_prompt_file_loads_strictly(tmp_path):
    model, state = tiny_zsseg_plus(), prompt_file()
    report = load_prompts_into(model, saved(state, tmp_path / "voc_cpt_coop_model.pth"))
    assert len(report.loaded) == 6 and len(report.dropped) == 2
    for name, tensor in model.prompt_learner.state_dict().items():
        assert torch.equal(tensor, state[f"prompt_learner.{name}"].float())
    for name in PROMPTS:
        rest = {key: tensor for key, tensor in state.items() if key != name}
        with pytest.raises(CheckpointError, match=name.rpartition(".")[2]):
            load_prompts_into(model, saved(rest, tmp_path / "part.pth"))
    with pytest.raises(CheckpointError, match="misshapen"):
        load_prompts_into(model, saved(prompt_file(32), tmp_path / "wide.pth"))
    with pytest.raises(CheckpointError, match="holds no prompts"):
        load_prompts_into(model, saved({"a": torch.zeros(1)}, tmp_path / "none.pth"))


def test_tuned_prompts_are_saved_and_loaded(tmp_path):
    source, model = tiny_zsseg_plus(3), tiny_zsseg_plus(4)
    load_prompts_into(model, save_prompts(source, tmp_path / "prompts.safetensors", recipe={"steps": 3}))
    assert torch.equal(model.prompt_learner.prefix_prompt, source.prompt_learner.prefix_prompt)
    whole = saved(released_state(source, 74), tmp_path / "whole.pth")
    load_prompts_into(tiny_zsseg_plus(4), whole)
    with pytest.raises(CheckpointError, match="prompts of CPTCoOp; set conditional to False"):
        load_prompts_into(tiny_zsseg_plus(conditional=True), tmp_path / "prompts.safetensors")


def test_a_training_begins_from_clip_and_prompts(tmp_path):
    torch.manual_seed(6)
    clip = build_clip(CLIP)
    path = save_clip(clip, CLIP, tmp_path / "clip.safetensors")
    prompts = save_prompts(tiny_zsseg_plus(3), tmp_path / "prompts.safetensors")
    model = tiny_zsseg_plus()
    report = initialise(model, path, prompts=prompts)
    assert len(report.loaded) == len(clip.state_dict()) + len(model.prompt_learner.state_dict())
    assert torch.equal(model.clip.visual.proj, clip.visual.proj)


@torch.no_grad()
def test_a_resnet_of_torchvision_computes_the_same(tmp_path):
    torch.manual_seed(0)
    source = TorchvisionResNet(Bottleneck, [1, 2, 1, 1]).eval()
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    torch.save(source.state_dict(), tmp_path / "resnet50.pth")
    backbone = ResNet(SIZE)
    load_resnet_into(backbone, tmp_path / "resnet50.pth")
    pixels = torch.randn(1, 3, 64, 96)
    features = source.layer1(source.maxpool(source.relu(source.bn1(source.conv1(pixels)))))
    for stage, found in zip((source.layer2, source.layer3, source.layer4, None), backbone(pixels), strict=True):
        assert (found - features).abs().max() < 1e-5 * features.abs().max()
        features = stage(features) if stage else None
    torch.save(backbone.state_dict() | {"stem.fc.weight": torch.zeros(2, 2)}, tmp_path / "R-50.pth")
    load_resnet_into(ResNet(SIZE), tmp_path / "R-50.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is no ResNet"):
        load_resnet_into(backbone, tmp_path / "none.pth")

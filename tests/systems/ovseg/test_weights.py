"""OVSeg's files: released layouts, our own, and what does not fit."""

import json
from dataclasses import asdict

import pytest
import torch

from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.systems.adapted_clip import AdaptedClip
from ovparts_lib.systems.ovseg.model import MINIATURE_OVSEG, RELEASED, RELEASED_R101C, Ovseg, OvsegSize
from ovparts_lib.systems.ovseg.weights import export_adapted, fuse_clip, is_constant, load_ovseg, released_names
from ovparts_lib.systems.registry import SYSTEMS
from tests.golden.released_ovseg import manifest, read_json
from tests.systems.ovseg.tiny import TINY_OVSEG, TINY_RESNET, tiny_ovseg

PROMPT = "clip_adapter.clip_model.visual.mask_embedding"


@pytest.mark.parametrize(("name", "size"), [("swinB_vitL14", RELEASED), ("r101c_vitB16", RELEASED_R101C)])
def test_released_sizes_have_the_manifests_tensors(name, size):
    with torch.device("meta"):
        model = Ovseg(size)
    expected = {key: shape for key, (shape, _) in manifest(name).items() if not is_constant(key)}
    assert {key: tuple(tensor.shape) for key, tensor in released_names(model.state_dict()).items()} == expected
    facts = read_json(f"{name}.manifest.json")
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(trained) == facts["parameters_trainable"]
    if size is RELEASED:
        counts = [
            (len(group["params"]), sum(p.numel() for p in group["params"])) for group in model.parameter_groups(1)
        ]
        assert counts == [(291, 102_544_512), (189, 297_208)]


def written(model, folder, change=lambda state: state):
    """A model as detectron2 would write it."""
    state = {name: tensor.clone() for name, tensor in released_names(model.state_dict()).items()}
    constants = {"criterion.empty_weight": torch.ones(172), "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1)}
    path = folder / "model_final.pth"
    torch.save({"model": change({**state, **constants}), "iteration": 7, "optimizer": {}}, path)
    return path


@pytest.mark.parametrize("size", [TINY_OVSEG, TINY_RESNET])
def test_released_files_and_our_own_give_the_same_model(tmp_path, size):
    model = tiny_ovseg(3, size=size)
    loaded, report = load_ovseg(written(model, tmp_path), size)
    assert set(report.dropped) == {"criterion.empty_weight", "clip_adapter.pixel_mean"}
    assert loaded.crop_rule.threshold == (0.5 if size is TINY_RESNET else 0.4)
    again, _ = load_ovseg(SYSTEMS["ovseg"].save(loaded, tmp_path / "own.safetensors"))
    assert again.size == size
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
        assert torch.equal(again.state_dict()[name], tensor), name


def test_old_files_lack_the_level_pixel_decoder(tmp_path):
    model = tiny_ovseg(3)

    def old(state):
        return {name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): tensor for name, tensor in state.items()}

    loaded, _ = load_ovseg(written(model, tmp_path, old), TINY_OVSEG)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_file_without_mask_prompts_does_not_use_them(tmp_path):
    def without(state):
        return {name: tensor for name, tensor in state.items() if name != PROMPT}

    loaded, report = load_ovseg(written(tiny_ovseg(3), tmp_path, without), TINY_OVSEG)
    assert not loaded.mask_prompts and report.initialised == ("mask_prompt",)


def test_files_that_do_not_fit(tmp_path):
    def extra(state):
        return {**state, "sem_seg_head.predictor.extra": torch.zeros(1)}

    with pytest.raises(CheckpointError, match=r"1 unexpected: sem_seg_head\.predictor\.extra"):
        load_ovseg(written(tiny_ovseg(3), tmp_path, extra), TINY_OVSEG)
    with pytest.raises(CheckpointError, match="misshapen"):
        load_ovseg(written(tiny_ovseg(3), tmp_path), OvsegSize(TINY_OVSEG.clip, TINY_OVSEG.backbone))
    with pytest.raises(CheckpointError, match="no OVSeg checkpoint"):
        torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
        load_ovseg(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="brings its own CLIP"):
        load_ovseg(written(tiny_ovseg(3), tmp_path), TINY_OVSEG, "clip.pt")


def test_sizes_survive_json():
    for size in (RELEASED, RELEASED_R101C, MINIATURE_OVSEG, TINY_RESNET):
        assert OvsegSize(**json.loads(json.dumps(asdict(size)))) == size


@pytest.mark.parametrize("depth", [0, 2])
def test_an_adapted_clip_is_fused_and_exported(tmp_path, depth):
    torch.manual_seed(5)
    adapted = AdaptedClip(tiny_ovseg(4).clip, TINY_OVSEG.clip, depth)
    state = {f"module.{name}": tensor.clone() for name, tensor in adapted.clip.state_dict().items()}
    if depth:
        state["module.visual.mask_embedding"] = adapted.mask_prompt.detach().clone()
    torch.save({"epoch": 5, "name": "ft", "state_dict": state, "optimizer": {}, "scaler": {}}, tmp_path / "epoch_5.pt")
    model = tiny_ovseg(6, mask_prompts=not depth)
    proposals = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("backbone.")}
    report = fuse_clip(model, tmp_path / "epoch_5.pt")
    assert model.mask_prompts == bool(depth)
    assert len(report.loaded) == len(state)
    for name, tensor in adapted.clip.state_dict().items():
        assert torch.equal(model.clip.state_dict()[name], tensor)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in proposals.items())
    assert torch.equal(model.mask_prompt, adapted.mask_prompt if depth else torch.zeros_like(model.mask_prompt))
    again = tiny_ovseg(7, mask_prompts=not depth)
    fuse_clip(again, export_adapted(model, tmp_path / "clip.safetensors"))
    assert again.mask_prompts == bool(depth) and torch.equal(again.mask_prompt, model.mask_prompt)
    assert all(torch.equal(again.clip.state_dict()[name], tensor) for name, tensor in adapted.clip.state_dict().items())


def test_a_file_of_another_clip_is_not_fused(tmp_path):
    torch.save({"state_dict": {"module.visual.proj": torch.zeros(2, 2)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no CLIP"):
        fuse_clip(tiny_ovseg(), tmp_path / "a.pt")

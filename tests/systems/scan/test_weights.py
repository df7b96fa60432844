"""Released layouts, what a training begins from, and the fuse step."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.checkpoints.maskformer import begin_from_backbone
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.clip.towers import MINIATURE, build_clip
from ovparts_lib.systems.scan import SYSTEM
from ovparts_lib.systems.scan.fine_tuning import ShiftedClip, save_shifted
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.sizes import MINIATURE_SCAN, RELEASED, RELEASED_VITB
from ovparts_lib.systems.scan.weights import (
    fuse_clip,
    is_unused,
    load_scan,
    released_names,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "scan"
SIZE = replace(MINIATURE_SCAN, queries=3)
LEFT_OVER = {
    "clip_adapter.clip_model.visual.cxt_decoder.0.weight": torch.zeros(3),
    "clip_adapter.clip_model.visual.learnable_weight": torch.zeros(1),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Scan(SIZE)


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module, state):
    own = module.state_dict()
    return set(own) == set(state) and all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize(("name", "size"), [("scan_vitB", RELEASED_VITB), ("scan_vitL", RELEASED)])
def test_names_shapes_and_what_trains_are_the_manifests(name, size):
    keys = json.loads((GOLDEN / f"{name}.manifest.json").read_text(encoding="utf-8"))["keys"]
    with torch.device("meta"):
        model = Scan(size)
    shapes = {name: list(tensor.shape) for name, tensor in released_names(model.state_dict()).items()}
    assert shapes == {key: facts["shape"] for key, facts in keys.items() if not is_unused(key)}
    parameters = released_names(dict(model.named_parameters()))
    trains = {key for key, facts in keys.items() if facts["trainable"]}
    assert {key for key, parameter in parameters.items() if parameter.requires_grad} == trains
    groups = {group["weight_decay"]: len(group["params"]) for group in model.parameter_groups(0.01)}
    assert groups == {0.01: 480, 0.0: 263}


def test_a_released_file_is_read_strictly_and_left_over_tensors_are_dropped_with_a_warning(model, tmp_path, caplog):
    state = released_names(model.state_dict()) | LEFT_OVER | {"criterion.empty_weight": torch.ones(172)}
    torch.save({"model": state}, tmp_path / "SCAN.pth")
    with caplog.at_level(logging.WARNING):
        loaded, report = load_scan(tmp_path / "SCAN.pth", SIZE)
    assert same(loaded, model.state_dict())
    assert set(report.dropped) == {*LEFT_OVER, "criterion.empty_weight"}
    assert "cxt_decoder" in caplog.text and "learnable_weight" in caplog.text
    del state["LFM.conv1.bias"]
    torch.save({"model": state}, tmp_path / "SCAN.pth")
    with pytest.raises(CheckpointError, match=r"missing: LFM\.conv1\.bias"):
        load_scan(tmp_path / "SCAN.pth", SIZE)


def test_our_own_file_needs_no_more_than_its_path(model, tmp_path):
    loaded, _ = load_scan(SYSTEM.save(model, tmp_path / "weights.safetensors"))
    assert loaded.size == SIZE and same(loaded, model.state_dict())


def test_files_of_other_systems_are_refused(tmp_path):
    torch.save({"model": {"clip_adapter.non_object_embedding": torch.zeros(1, 768)}}, tmp_path / "ovseg.pth")
    with pytest.raises(CheckpointError, match="no SCAN checkpoint"):
        load_scan(tmp_path / "ovseg.pth")


def test_training_begins_from_one_clip_twice_and_an_imagenet_backbone(model, tmp_path):
    clip = build_clip(MINIATURE)
    path = save_clip(clip, MINIATURE, tmp_path / "clip.safetensors")
    swin = Scan(SIZE).backbone.state_dict()
    outputs = {name for name in swin if name.startswith("norm")}
    classifier = {"norm.weight": torch.ones(192), "head.bias": torch.zeros(5)}
    torch.save({"model": {n: t for n, t in swin.items() if n not in outputs} | classifier}, tmp_path / "swin.pth")
    model, report = load_scan(tmp_path / "swin.pth", SIZE, path)
    assert same(model.clip, clip.state_dict()) and same(model.original_clip, clip.visual.state_dict())
    assert all(torch.equal(tensor, swin[name]) for name, tensor in model.backbone.state_dict().items())
    assert set(report.dropped) == set(classifier)
    assert {name for name in report.initialised if name.startswith("backbone.")} == {f"backbone.{n}" for n in outputs}
    with pytest.raises(CheckpointError, match="holds a backbone alone"):
        load_scan(tmp_path / "swin.pth", SIZE)
    torch.save({"layer1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="no Swin Transformer"):
        begin_from_backbone(model, tmp_path / "resnet.pth", path)


def test_fusing_replaces_the_clip_that_classifies_and_nothing_else(model, tmp_path, caplog):
    shifted, before = build_clip(MINIATURE), snapshot(model)
    state = {f"module.clip_model.{name}": tensor for name, tensor in shifted.state_dict().items()}
    original = {f"module.original_clip_visual.{name}": tensor for name, tensor in shifted.visual.state_dict().items()}
    left_over = {"module.clip_model.visual.cxt_decoder.0.weight": torch.zeros(3)}
    content = {"epoch": 10, "name": "run", "state_dict": state | original | left_over, "optimizer": {}}
    torch.save(content, tmp_path / "CS_CLIP.pt")
    with caplog.at_level(logging.WARNING):
        report = fuse_clip(model, tmp_path / "CS_CLIP.pt")
    assert same(model.clip, shifted.state_dict())
    assert {f"module.{name}" for name in report.loaded} == set(state)
    assert {f"module.{name}" for name in report.dropped} == set(original) | set(left_over)
    assert "cxt_decoder" in caplog.text
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if not name.startswith("clip."))


def test_a_clip_fine_tuned_here_is_fused_too(model, tmp_path):
    shifted = ShiftedClip(build_clip(MINIATURE), MINIATURE, shift_blocks=(1, 3))
    fuse_clip(model, save_shifted(shifted, tmp_path / "shifted.safetensors"))
    assert same(model.clip, shifted.clip.state_dict())
    path = SYSTEM.save(Scan(SIZE), tmp_path / "weights.safetensors")
    fused, _ = load_scan(path, fused_path=tmp_path / "shifted.safetensors")
    assert same(fused.clip, shifted.clip.state_dict()) and not same(
        fused.original_clip, shifted.clip.visual.state_dict()
    )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (build_clip(MINIATURE).state_dict(), "no contextually shifted CLIP"),
        ({"module.clip_model.visual.proj": torch.zeros(96, 96)}, "missing"),
        ({"module.clip_model.visual.proj": torch.zeros(1024, 768)}, "does not fit the model"),
    ],
)
def test_a_wrong_file_is_refused_and_the_model_stays_as_it_was(model, tmp_path, state, message):
    before = snapshot(model)
    torch.save({"state_dict": state}, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError, match=message):
        fuse_clip(model, tmp_path / "wrong.pt")
    assert same(model, before)


def test_the_fine_tuning_of_clip_trains_its_image_tower_and_temperature_alone():
    torch.manual_seed(0)
    model = ShiftedClip(build_clip(MINIATURE), MINIATURE, shift_blocks=(1, 3))
    masks = torch.zeros(2, 64, 64)
    masks[:, :20] = 1
    batch = {"pixels": torch.randn(2, 3, 64, 64), "images": torch.randn(2, 3, 64, 64), "masks": masks}
    model.loss({**batch, "captions": ["a cat", "the sky"]})["loss_contrastive"].backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if name.startswith("clip.visual.")} | {
        "clip.logit_scale"
    }

"""PartCATSeg's weight files: which are recognised, which refused, and what training is started from."""

import pytest
import torch

from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.backbones.guidance import DinoGuidance
from ovparts_lib.systems.catseg.model import RELEASED as CATSEG_RELEASED
from ovparts_lib.systems.catseg.model import RELEASED_DINOV2, Catseg, without_guidance
from ovparts_lib.systems.catseg.weights import released_names as catseg_names
from ovparts_lib.systems.cost_weights import BACKGROUND, TRANSFORMER
from ovparts_lib.systems.partcatseg.model import MINIATURE_PARTCATSEG, RELEASED, PartCatseg
from ovparts_lib.systems.partcatseg.weights import load_partcatseg, released_names
from ovparts_lib.systems.registry import SYSTEMS
from tests.golden.released_partcatseg import manifest
from tests.systems.catseg.tiny import tiny_catseg
from tests.systems.partcatseg.tiny import TINY_PARTCATSEG, tiny_partcatseg
from tests.systems.tiny import VOCABULARY, random_image

SECOND = {"embedding.": "specific_embedding.", "layers.": "specific_layers."}
TINY_NONE = without_guidance(TINY_PARTCATSEG)  # every parameter of it has a released name
PROJECTIONS = {f"aggregator.appearance.{which}.weight" for which in ("aggregator", "decoder.0", "decoder.1")}


@pytest.fixture(scope="module")
def cat_seg(tmp_path_factory):
    """(path, state dict) of a stand-in for upstream's model_final_base.pth: its names and shapes, random values."""
    torch.manual_seed(1)
    state = catseg_names(Catseg(CATSEG_RELEASED).state_dict())
    del state[BACKGROUND]
    for number in range(2):
        state[f"{TRANSFORMER}layers.{number}.swin_block.block_2.attn_mask"] = torch.zeros(4, 144, 144)
    path = tmp_path_factory.mktemp("cat_seg") / "model_final_base.pth"
    torch.save({"model": state, "iteration": 79999}, path)
    return path, state


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """(path, state dict) of a stand-in for dinov2_vits14_pretrain.pth."""
    torch.manual_seed(2)
    state = dict(DinoGuidance().dinov2.state_dict(), mask_token=torch.zeros(1, 384))
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vits14_pretrain.pth"
    torch.save(state, path)
    return path, state


def written(path, state):
    torch.save({"model": state}, path)
    return path


def second_stage_is_a_copy(model):
    own = model.aggregator.state_dict()
    pairs = [
        (name, name.replace(ours, theirs, 1))
        for name in own
        for ours, theirs in SECOND.items()
        if name.startswith(ours)
    ]
    assert len(pairs) > 90
    return [torch.equal(own[first], own[second]) for first, second in pairs]


# --- names ----------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_manifest():
    with torch.device("meta"):
        own = released_names(PartCatseg(RELEASED).state_dict())
    dead = ("layers_object", "mask_token", "attn_mask")
    expected = {name: shape for name, shape in manifest().items() if not any(part in name for part in dead)}
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == expected


# --- starting from CAT-Seg ------------------------------------------------------------------------------------------


def test_training_starts_from_cat_seg_and_dinov2(cat_seg, dinov2):
    (path, upstream), (dino_path, dino) = cat_seg, dinov2
    model, report = load_partcatseg(path, guidance_path=dino_path)
    own = released_names(model.state_dict())
    for name, tensor in upstream.items():
        if name.startswith("backbone.") or name.endswith("attn_mask"):
            assert name in report.dropped
        elif own[name].shape == tensor.shape:
            assert name in report.loaded
            assert torch.equal(own[name], tensor), name
        else:
            assert "guidance_projection" in name
            assert name in report.dropped
    for name, tensor in dino.items():
        if name != "mask_token":
            assert torch.equal(own[f"backbone.dinov2.{name}"], tensor), name
    assert all(second_stage_is_a_copy(model))
    new = {"aggregator.object_aware.weight", "aggregator.object_aware.bias", "background_text"} | PROJECTIONS
    assert set(report.initialised) == new


def test_as_released_the_second_stage_is_copied_before_loading(cat_seg, dinov2):
    torch.manual_seed(3)
    model, report = load_partcatseg(cat_seg[0], guidance_path=dinov2[0], second_stage="random")
    torch.manual_seed(3)
    fresh = PartCatseg(RELEASED)
    expected, own = fresh.aggregator.state_dict(), model.aggregator.state_dict()
    second = [name for name in own if name.startswith(tuple(SECOND.values()))]
    assert all(torch.equal(own[name], expected[name]) for name in second)
    assert all(second_stage_is_a_copy(fresh))
    assert {f"aggregator.{name}" for name in second} <= set(report.initialised)
    with pytest.raises(ValueError, match=r"second_stage\n.*'pretrained' or 'random'"):
        load_partcatseg(cat_seg[0], second_stage="copied")


def test_dinov2_has_to_be_given_where_it_is_not_in_the_file(cat_seg):
    with pytest.raises(CheckpointError, match=r"brings resnet101 guidance.*dinov2_vits14.*dinov2_vits14_pretrain.pth"):
        load_partcatseg(cat_seg[0])


def test_the_later_cat_seg_is_refused_by_name(tmp_path, cat_seg):
    later = {
        f"{TRANSFORMER}conv1.weight": torch.zeros(128, 1, 7, 7),
        f"{TRANSFORMER}padding_tokens": torch.zeros(1, 1, 512),
    }
    with pytest.raises(CheckpointError, match=r"later version.*needed is the first release.*model_final_base.pth"):
        load_partcatseg(written(tmp_path / "model_base.pth", later))
    larger = {f"{TRANSFORMER}conv1.weight": torch.zeros(128, 64, 7, 7)}
    with pytest.raises(
        CheckpointError, match=r"cost embedding of shape \(128, 64, 7, 7\); needed is the first release"
    ):
        load_partcatseg(written(tmp_path / "other.pth", larger))


@pytest.mark.slow
def test_catseg_with_the_same_backbone_brings_its_projections(tmp_path):
    state = catseg_names(Catseg(RELEASED_DINOV2).state_dict())
    model, report = load_partcatseg(written(tmp_path / "catseg_voc.pth", state))
    own = released_names(model.state_dict())
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert set(report.initialised) == {"aggregator.object_aware.weight", "aggregator.object_aware.bias"}


def test_our_own_catseg_starts_it_too(tmp_path):
    catseg = tiny_catseg(seed=5)
    SYSTEMS["catseg"].save(catseg, tmp_path / "catseg.safetensors")
    model, report = load_partcatseg(tmp_path / "catseg.safetensors")
    assert model.size == TINY_PARTCATSEG
    state = model.state_dict()
    for name, tensor in catseg.state_dict().items():
        shared = name in state
        assert torch.equal(state[name if shared else f"aggregator.{name}"], tensor), name
    assert all(second_stage_is_a_copy(model))
    assert set(report.initialised) == {"aggregator.object_aware.weight", "aggregator.object_aware.bias"}
    with pytest.raises(CheckpointError, match="brings its own guidance backbone"):
        load_partcatseg(tmp_path / "catseg.safetensors", guidance_path="dinov2_vits14_pretrain.pth")


# --- released and own files -----------------------------------------------------------------------------------------


def test_our_own_files_need_no_more_than_their_path(tmp_path):
    model = tiny_partcatseg().eval()
    SYSTEMS["partcatseg"].save(model, tmp_path / "tiny.safetensors", note="kept")
    again, report = load_partcatseg(tmp_path / "tiny.safetensors", padding="stretched")
    assert (again.size, again.padding, report.initialised) == (TINY_PARTCATSEG, "stretched", ())
    image = random_image(40, 50)
    (before,), (after,) = (m.predict([image], VOCABULARY) for m in (model, again.eval()))
    assert torch.equal(before.logits, after.logits)


def test_the_miniature_can_be_kept(tmp_path):
    SYSTEMS["partcatseg"].save(PartCatseg(MINIATURE_PARTCATSEG), tmp_path / "miniature.safetensors")
    assert load_partcatseg(tmp_path / "miniature.safetensors")[0].size == MINIATURE_PARTCATSEG


def test_a_released_file_of_the_tiny_size_is_loaded_strictly(tmp_path):
    source = tiny_partcatseg(seed=7, size=TINY_NONE)
    state = {f"module.{name}": tensor for name, tensor in released_names(source.state_dict()).items()}
    state[f"module.{TRANSFORMER}layers_object.0.attention.norm1.weight"] = torch.ones(16)
    state[f"module.{TRANSFORMER}layers.0.swin_block.block_2.attn_mask"] = torch.zeros(4, 4, 4)
    path = written(tmp_path / "partcatseg.pth", state)
    missing = dict(state)
    del missing[f"module.{TRANSFORMER}conv2.bias"]
    with pytest.raises(CheckpointError, match=rf"1 missing: {TRANSFORMER}conv2.bias"):
        load_partcatseg(written(tmp_path / "missing.pth", missing), TINY_NONE)
    partial = {name: tensor for name, tensor in state.items() if "conv_proj_feat" not in name}
    with pytest.raises(CheckpointError, match=rf"2 missing: {TRANSFORMER}conv_proj_feat\."):
        load_partcatseg(written(tmp_path / "partial.pth", partial), TINY_NONE)
    unknown = {**state, f"module.{TRANSFORMER}conv3.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load_partcatseg(written(tmp_path / "unknown.pth", unknown), TINY_NONE)
    model, report = load_partcatseg(path, TINY_NONE)
    assert len(report.dropped) == 2
    expected = source.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match="brings its own CLIP"):
        load_partcatseg(path, TINY_NONE, clip_path="ViT-B-16.pt")


def test_files_of_other_systems_are_refused(tmp_path):
    save_weights({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"system": "clipseg"})
    with pytest.raises(CheckpointError, match="holds weights of 'clipseg', not of 'partcatseg'"):
        load_partcatseg(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no CATSeg checkpoint of a known kind"):
        load_partcatseg(written(tmp_path / "unknown.pth", {"layer.weight": torch.zeros(1)}))

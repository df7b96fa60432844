"""CATSeg's weight files: which are recognised, which refused, and what a model is started from."""

from dataclasses import replace

import pytest
import torch

from ovparts_lib.checkpoints.cost_aggregation import load_guidance_into
from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.backbones.guidance import DinoGuidance, SmallGuidance
from ovparts_lib.systems.catseg.model import MINIATURE_COST, RELEASED, RELEASED_DINOV2, Catseg
from ovparts_lib.systems.catseg.weights import load_catseg, released_names
from ovparts_lib.systems.cost_weights import BACKGROUND, TRANSFORMER
from ovparts_lib.systems.partcatseg.weights import load_partcatseg
from ovparts_lib.systems.registry import SYSTEMS, load_system
from tests.golden.fill import fill
from tests.golden.released_catseg import (
    dinov2_catseg,
    filled_state,
    load_through_a_file,
    manifest,
    read_json,
    resnet_catseg,
)
from tests.systems.catseg.tiny import TINY_CATSEG, tiny_catseg
from tests.systems.tiny import VOCABULARY, random_image

NEW_IN_DINOV2 = ("appearance.aggregator.weight", "appearance.decoder.0.weight", "appearance.decoder.1.weight")


@pytest.mark.parametrize(
    "variant", ["ovparts_catseg_r101", pytest.param("partcatseg_catseg_dinov2", marks=pytest.mark.slow)]
)
def test_every_tensor_of_the_manifest_is_loaded_or_known_to_be_useless(variant):
    model, report = resnet_catseg() if variant.endswith("r101") else dinov2_catseg()
    names = set(manifest(variant))
    assert set(report.loaded) | set(report.dropped) == names
    assert all(name.endswith(("attn_mask", "mask_token")) for name in report.dropped)
    assert report.initialised == ()
    unused = 384 if variant.endswith("dinov2") else 0  # DINOv2's mask token
    assert (
        sum(p.numel() for p in model.parameters()) == read_json(f"{variant}.manifest.json")["parameters_total"] - unused
    )
    for name, tensor in list(released_names(model.state_dict()).items())[::60]:
        assert torch.equal(tensor, torch.from_numpy(fill(name, tuple(tensor.shape)))), name


def test_our_own_files_need_no_more_than_their_path(tmp_path):
    model = tiny_catseg().eval()
    SYSTEMS["catseg"].save(model, tmp_path / "tiny.safetensors", note="kept")
    again, report = load_catseg(tmp_path / "tiny.safetensors", padding="stretched")
    assert again.size == TINY_CATSEG
    assert again.padding == "stretched"
    assert report.initialised == ()
    image = random_image(40, 50)
    (before,), (after,) = (m.predict([image], VOCABULARY) for m in (model, again.eval()))
    assert torch.equal(before.logits, after.logits)


def test_the_miniature_can_be_kept(tmp_path):
    SYSTEMS["catseg"].save(Catseg(MINIATURE_COST), tmp_path / "miniature.safetensors")
    assert load_catseg(tmp_path / "miniature.safetensors")[0].size == MINIATURE_COST


def test_files_of_other_systems_are_refused(tmp_path):
    save_weights({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"system": "clipseg"})
    with pytest.raises(CheckpointError, match="holds weights of 'clipseg', not of 'catseg'"):
        load_catseg(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no CATSeg checkpoint of a known kind"):
        load_through_a_file({"layer.weight": torch.zeros(1)})
    conv = {f"{TRANSFORMER}conv1.weight": torch.zeros(128, 80, 7, 7)}
    with pytest.raises(CheckpointError, match="is a checkpoint of PartCATSeg"):
        load_through_a_file({**conv, f"{TRANSFORMER}layers_specific_part.0.x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="brings its own CLIP"):
        load_through_a_file(conv, clip_path="ViT-B-16.pt")


@pytest.mark.parametrize(
    "state",
    [
        {f"{TRANSFORMER}conv1.weight": torch.zeros(128, 1, 7, 7)},
        {f"{TRANSFORMER}padding_tokens": torch.zeros(1)},
        {"module.sem_seg_head.predictor.clip_model.visual.transformer.resblocks.0.attn.q_proj_weight": torch.zeros(1)},
    ],
)
def test_upstreams_later_version_is_refused_and_the_right_one_named(state):
    with pytest.raises(CheckpointError, match=r"later version.*needed is the first release.*model_final_base\.pth"):
        load_through_a_file(state)


def test_upstreams_other_sizes_are_refused():
    with pytest.raises(CheckpointError, match=r"shape \(128, 512, 7, 7\); needed is the first release"):
        load_through_a_file({f"{TRANSFORMER}conv1.weight": torch.zeros(128, 512, 7, 7)})
    with pytest.raises(CheckpointError, match="neither ResNet-101 nor DINOv2"):
        load_through_a_file({f"{TRANSFORMER}conv1.weight": torch.zeros(128, 80, 7, 7)})


def test_a_size_that_is_asked_for_is_what_the_file_must_have():
    size = replace(RELEASED, aggregator=replace(RELEASED.aggregator, prompts=1), templates="single")
    with pytest.raises(CheckpointError, match=r"\(128, 80, 7, 7\); the size that was asked for has \(128, 1, 7, 7\)"):
        load_through_a_file({f"{TRANSFORMER}conv1.weight": torch.zeros(128, 80, 7, 7)}, size=size)
    # Not taken for upstream's later version, which has one prompt.
    with pytest.raises(CheckpointError, match="neither ResNet-101 nor DINOv2"):
        load_through_a_file({f"{TRANSFORMER}conv1.weight": torch.zeros(128, 1, 7, 7)}, size=size)


@pytest.mark.parametrize(
    ("load", "state"),
    [(load_catseg, {}), (load_partcatseg, {f"{TRANSFORMER}layers_specific_part.0.x": torch.zeros(1)})],
)
def test_a_file_with_other_prompts_says_which_options_it_needs(tmp_path, load, state):
    """As CAT-Seg's short list leaves one, trained on PartImageNet."""
    path = tmp_path / "partimagenet.pth"
    torch.save({"model": {f"{TRANSFORMER}conv1.weight": torch.zeros(128, 8, 7, 7), **state}}, path)
    needed = r"\(128, 8, 7, 7\).* 8 prompts, not with the 80.*templates: imagenet_select;.* test_shortest_edge: none"
    with pytest.raises(CheckpointError, match=needed):
        load(path)
    # With them, what it lacks besides is what is wrong.
    with pytest.raises(CheckpointError, match=r"neither ResNet-101 nor DINOv2|does not fit the model: \d+ missing"):
        load(path, templates="imagenet_select", test_shortest_edge=None)


def test_what_no_tensor_tells_is_said_when_a_file_is_read(tmp_path):
    path = SYSTEMS["catseg"].save(Catseg(MINIATURE_COST), tmp_path / "miniature.safetensors")
    assert load_system(path)[0].size.inputs.shortest_edge == MINIATURE_COST.inputs.shortest_edge == 96
    model, _ = load_system(path, test_shortest_edge=None)
    assert model.size == replace(MINIATURE_COST, inputs=replace(MINIATURE_COST.inputs, shortest_edge=None))
    other = SYSTEMS["clipseg"].save(SYSTEMS["clipseg"].build("miniature"), tmp_path / "clipseg.safetensors")
    with pytest.raises(CheckpointError, match="is of CLIPSeg, which has no test_shortest_edge; leave it out"):
        load_system(other, test_shortest_edge=None)


def test_the_lack_of_the_tensor_that_tells_the_version_is_named():
    state = dict(filled_state("ovparts_catseg_r101"))
    del state[f"{TRANSFORMER}conv1.weight"]
    with pytest.raises(CheckpointError, match=f"lacks {TRANSFORMER}conv1.weight"):
        load_through_a_file(state)


def upstream_state():
    """The first release of CAT-Seg: as OV-PARTS' checkpoint, without the background's text."""
    state = dict(filled_state("ovparts_catseg_r101"))
    del state[BACKGROUND]
    return {"module." + name.replace("guidance", "affinity"): tensor for name, tensor in state.items()}


@pytest.mark.slow
def test_upstream_initialises_the_resnet_variant():
    model, report = load_through_a_file(upstream_state())
    assert model.size == RELEASED
    assert report.kind == "upstream CAT-Seg, first release"
    assert report.initialised == ("background_text",)
    assert len(report.loaded) == 896
    other = resnet_catseg()[0].state_dict()
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in other.items() if name != "background_text")


@pytest.mark.slow
def test_upstream_initialises_the_dinov2_variant(tmp_path):
    dinov2 = {
        name.removeprefix("backbone.dinov2."): tensor
        for name, tensor in filled_state("partcatseg_catseg_dinov2").items()
        if name.startswith("backbone.")
    }
    torch.save(dinov2, tmp_path / "dinov2_vits14_pretrain.pth")
    with pytest.raises(CheckpointError, match=r"brings resnet101 guidance, but dinov2_vits14 is.*_pretrain\.pth"):
        load_through_a_file(upstream_state(), size=RELEASED_DINOV2)
    model, report = load_through_a_file(
        upstream_state(), size=RELEASED_DINOV2, guidance_path=tmp_path / "dinov2_vits14_pretrain.pth"
    )
    assert set(report.initialised) == {"background_text", *NEW_IN_DINOV2}
    assert len([name for name in report.loaded if name.startswith("sem_seg_head.")]) == 423
    assert len([name for name in report.dropped if name.startswith("backbone.")]) == 470
    own = model.state_dict()
    for name, tensor in dinov2_catseg()[0].state_dict().items():
        assert torch.equal(tensor, own[name]) != (name in report.initialised), name


def test_backbone_weights_of_another_kind_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is no DINOv2 backbone"):
        load_guidance_into(DinoGuidance(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no pre-trained weights"):
        load_guidance_into(SmallGuidance((8, 8, 8)), tmp_path / "other.pth")

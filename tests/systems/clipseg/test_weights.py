from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.clip.towers import ActivationError, build_clip
from ovparts_lib.systems.clipseg.model import RELEASED, Clipseg
from ovparts_lib.systems.clipseg.weights import load_clipseg
from ovparts_lib.systems.query_weights import fine_tuned_names, hub_names, timojl_names
from ovparts_lib.systems.registry import SYSTEMS
from tests.golden.released_clipseg import manifest
from tests.systems.tiny import TINY, TINY_CLIP, tiny_clipseg

PLAIN = replace(TINY, refined=False)
START = {"visual_adapter.down.weight", "visual_adapter.up.weight", "background_query"}


def clipseg(size=TINY, seed=0):
    torch.manual_seed(seed)
    return Clipseg(size)


def cloned(state):
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def fine_tuned_state(model):
    dead = {
        "clip.text_model.embeddings.position_ids": torch.arange(77)[None],
        "clip.vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_adapter.fc.0.weight": torch.ones(4, 16),
        "text_adapter.fc.2.weight": torch.ones(16, 4),
        "tunable_linear.weight": torch.zeros(1000, 16),
    }
    return cloned(fine_tuned_names(model.state_dict())) | {f"clipseg_model.{k}": v for k, v in dead.items()}


def hub_state(model):
    state = cloned(hub_names(model.state_dict()))
    return {name: tensor for name, tensor in state.items() if name.startswith(("clip.", "decoder."))}


def assert_same(model, source, except_for=()):
    expected = source.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]) == (name not in except_for), name


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released_state():
    with torch.device("meta"):
        return Clipseg(RELEASED).state_dict()


def test_the_names_are_those_of_the_fine_tuned_manifest(released_state):
    dead = ("position_ids", "text_adapter", "tunable_linear")
    expected = {name: shape for name, (shape, _) in manifest("finetuned").items() if not any(d in name for d in dead)}
    assert {name: tuple(tensor.shape) for name, tensor in fine_tuned_names(released_state).items()} == expected


def test_the_names_are_those_of_the_hubs_manifest(released_state):
    expected = {name: shape for name, (shape, floating) in manifest("hub_clipseg-rd64-refined").items() if floating}
    own = {name: tuple(tensor.shape) for name, tensor in hub_names(released_state).items()}
    assert {name: shape for name, shape in own.items() if name.startswith(("clip.", "decoder."))} == expected


def test_the_names_of_timojls_decoder(released_state):
    """As his TransformerEncoderLayers and Sequential name them."""
    blocks = [
        f"blocks.{i}.{name}.{leaf}"
        for i in range(3)
        for name in ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")
        for leaf in ("weight", "bias")
    ]
    blocks += [f"blocks.{i}.self_attn.in_proj_{leaf}" for i in range(3) for leaf in ("weight", "bias")]
    others = ["film_mul", "film_add", *(f"reduces.{i}" for i in range(3)), *(f"trans_conv.{i}" for i in (0, 2, 4))]
    expected = {*blocks, *(f"{name}.{leaf}" for name in others for leaf in ("weight", "bias"))}
    assert set(timojl_names(released_state)) == expected


# --- the four kinds of files ----------------------------------------------------------------------------------------


def test_a_fine_tuned_checkpoint(tmp_path):
    source, path = clipseg(), tmp_path / "clipseg_ft.pth"
    torch.save({"model": fine_tuned_state(source), "iteration": 1}, path)
    model, report = load_clipseg(path, TINY)
    assert_same(model, source)
    assert len(report.dropped) == 5
    assert report.initialised == ()
    assert report.kind == "OV-PARTS fine-tuned checkpoint"


def test_a_fine_tuned_checkpoint_without_its_dead_weights(tmp_path):
    source, path = clipseg(), tmp_path / "clipseg_ft_VA_L_F.pth"
    torch.save({"model": cloned(fine_tuned_names(source.state_dict()))}, path)
    model, report = load_clipseg(path, TINY)
    assert_same(model, source)
    assert report.dropped == ()


@pytest.mark.parametrize("size", [TINY, PLAIN])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_hub_model(tmp_path, size, name, folder):
    source = clipseg(size)
    state = hub_state(source)
    if name.endswith("bin"):  # old enough to hold position ids
        torch.save(state | {"clip.text_model.embeddings.position_ids": torch.arange(77)[None]}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    torch.manual_seed(5)
    model, report = load_clipseg(tmp_path if folder else tmp_path / name, size)
    assert_same(model, source, except_for=START)
    assert set(report.initialised) == START
    assert torch.equal(model.background_query, clipseg(size, seed=5).background_query)


@pytest.mark.parametrize("size", [TINY, PLAIN])
def test_timojls_decoder_with_openais_clip(tmp_path, size):
    source = clipseg(size)
    decoder = cloned(timojl_names(source.state_dict()))
    torch.save(decoder | {"reduce.weight": torch.ones(8, 32), "reduce.bias": torch.ones(8)}, tmp_path / "rd64.pth")
    constants = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save(cloned(source.clip.state_dict()) | constants, tmp_path / "ViT-B-16.pt")
    model, report = load_clipseg(tmp_path / "rd64.pth", size, tmp_path / "ViT-B-16.pt")
    assert_same(model, source, except_for=START)
    assert set(report.initialised) == START
    assert set(report.dropped) == {"reduce.weight", "reduce.bias", *constants}
    assert len(report.loaded) == len(decoder) + len(source.clip.state_dict())


def test_timojls_decoder_needs_a_clip_of_the_right_kind(tmp_path):
    source = clipseg()
    torch.save(cloned(timojl_names(source.state_dict())), tmp_path / "rd64.pth")
    with pytest.raises(CheckpointError, match=r"rd64.pth holds CLIPSeg's decoder only; give .* as clip_weights"):
        load_clipseg(tmp_path / "rd64.pth", TINY)
    save_clip(build_clip(TINY_CLIP, quick_gelu=False), TINY_CLIP, tmp_path / "gelu.safetensors")
    with pytest.raises(ActivationError, match=r"gelu.safetensors was trained with gelu"):
        load_clipseg(tmp_path / "rd64.pth", TINY, tmp_path / "gelu.safetensors")
    torch.save(hub_state(source), tmp_path / "hub.bin")
    with pytest.raises(CheckpointError, match=r"hub.bin \(hub model\) brings its own CLIP"):
        load_clipseg(tmp_path / "hub.bin", TINY, tmp_path / "gelu.safetensors")


@pytest.mark.parametrize("size", [TINY, PLAIN])
def test_our_own_file_needs_no_size(tmp_path, size):
    source, path = clipseg(size), tmp_path / "w.safetensors"
    SYSTEMS["clipseg"].save(source, path, iterations=20)
    model, report = load_clipseg(path, query_chunk=3, label_resize="floor")
    assert model.size == size
    assert (model.query_chunk, model.label_resize) == (3, "floor")
    assert_same(model, source)
    assert (report.dropped, report.initialised) == ((), ())


def test_the_size_of_other_files_is_seen_from_their_tensors(tmp_path, monkeypatch):
    """Which head and which width; the tower is ViT-B/16 in all files there are, replaced here by the tests' own."""
    monkeypatch.setattr("ovparts_lib.systems.query_weights.RELEASED", replace(TINY, reduce_dim=64))
    for size in (TINY, PLAIN, replace(PLAIN, reduce_dim=4)):
        torch.save(hub_state(clipseg(size)), tmp_path / "w.bin")
        assert load_clipseg(tmp_path / "w.bin")[0].size == size


# --- what is refused ------------------------------------------------------------------------------------------------


def without(state):
    del state["clipseg_model.decoder.layers.1.self_attn.k_proj.weight"]


def with_more(state):
    state["clipseg_model.decoder.layers.3.mlp.fc1.weight"] = torch.ones(1)


def misshapen(state):
    state["clipseg_model.clip.text_projection.weight"] = torch.ones(16, 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "1 missing: clipseg_model.decoder.layers.1.self_attn.k_proj.weight"),
        (with_more, "1 unexpected: clipseg_model.decoder.layers.3.mlp.fc1.weight"),
        (
            misshapen,
            r"1 misshapen: \S*clip.text_projection.weight is \(16, 17\) in the file, \(16, 16\) in the model",
        ),
    ],
)
def test_a_tensor_missing_unexpected_or_misshapen_is_named(tmp_path, change, message):
    state = fine_tuned_state(tiny_clipseg())
    change(state)
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"w.pth .*does not fit the model: {message}$"):
        load_clipseg(tmp_path / "w.pth", TINY)


def test_the_background_query_of_a_fine_tuned_file_may_not_be_missing(tmp_path):
    state = fine_tuned_state(tiny_clipseg())
    del state["clipseg_model.non_object_embedding"]
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: clipseg_model.non_object_embedding"):
        load_clipseg(tmp_path / "w.pth", TINY)


def test_a_refined_file_does_not_fit_a_plain_head(tmp_path):
    torch.save(hub_state(clipseg(TINY)), tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=r"2 missing: decoder.transposed_convolution.weight.*6 unexpected"):
        load_clipseg(tmp_path / "w.bin", PLAIN)


def test_files_of_other_systems_are_refused(tmp_path):
    save_weights({"a": torch.ones(1)}, tmp_path / "ours.safetensors", {"system": "catseg"})
    with pytest.raises(CheckpointError, match="weights of 'catseg', not of 'clipseg'"):
        load_clipseg(tmp_path / "ours.safetensors")
    torch.save({"backbone.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no CLIPSeg checkpoint of a known kind.*backbone.weight"):
        load_clipseg(tmp_path / "w.pth")

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.systems.clipseg.model import Clipseg
from ovparts_lib.systems.partclipseg.model import RELEASED, Partclipseg
from ovparts_lib.systems.partclipseg.weights import load_partclipseg, released_names
from ovparts_lib.systems.query_weights import fine_tuned_names, hub_names, timojl_names
from ovparts_lib.systems.registry import SYSTEMS
from tests.golden.released_partclipseg import manifest
from tests.systems.tiny import TINY, TINY_CLIP

PLAIN = replace(TINY, refined=False)
DRAWN = {f"decoder.{layer}.{leaf}" for layer in ("pair_mix", "pair_text") for leaf in ("weight", "bias")}
ADAPTERS = {"visual_adapter.down.weight", "visual_adapter.up.weight", "background_query"}


def partclipseg(size=TINY, seed=0, **options):
    torch.manual_seed(seed)
    model = Partclipseg(size, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("decoder.pair_"):
                parameter.normal_()
    return model


def clipseg(size=TINY, seed=3):
    torch.manual_seed(seed)
    return Clipseg(size)


def cloned(state):
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def released_state(model):
    dead = {
        "clip.text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_adapter.fc.0.weight": torch.ones(4, 16),
        "tunable_linear.weight": torch.zeros(1000, 16),
    }
    return cloned(released_names(model.state_dict())) | {f"partclipseg_model.{k}": v for k, v in dead.items()}


def assert_shared_and_copied(model, source, except_for=()):
    """The model holds a CLIPSeg's tensors, and its FiLM and head a second time."""
    own, expected = model.state_dict(), source.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(own[name], tensor) == (name not in except_for), name
        for shared, pair in [("film_", "pair_film_"), ("head.", "pair_head.")]:
            if name.startswith(f"decoder.{shared}"):
                copy = own[name.replace(f"decoder.{shared}", f"decoder.{pair}")]
                assert torch.equal(copy, tensor)
                assert copy.data_ptr() != own[name].data_ptr()


def test_the_names_are_those_of_the_manifest():
    with torch.device("meta"):
        state = Partclipseg(RELEASED).state_dict()
    dead = ("position_ids", "text_adapter", "tunable_linear")
    expected = {name: shape for name, (shape, _) in manifest().items() if not any(word in name for word in dead)}
    assert {name: tuple(tensor.shape) for name, tensor in released_names(state).items()} == expected


@pytest.mark.parametrize("size", [TINY, PLAIN])
def test_a_released_checkpoint(tmp_path, size):
    source, path = partclipseg(size), tmp_path / "partclipseg_voc_oracle.pth"
    torch.save({"model": released_state(source), "iteration": 1}, path)
    model, report = load_partclipseg(path, size)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (model.object_text, len(report.dropped), report.initialised) == ("released", 3, ())
    with pytest.raises(CheckpointError, match=r"voc_oracle.pth was trained with object_text 'released'"):
        load_partclipseg(path, size, object_text="object")


@pytest.mark.parametrize("object_text", ["object", "released"])
def test_our_own_file_says_its_size_and_what_its_pairs_read(tmp_path, object_text):
    source, path = partclipseg(object_text=object_text), tmp_path / "w.safetensors"
    SYSTEMS["partclipseg"].save(source, path, iterations=20)
    model, report = load_partclipseg(path, query_chunk=3, separation_weight=0.0)
    assert (model.size, model.object_text, model.query_chunk) == (TINY, object_text, 3)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (report.dropped, report.initialised) == ((), ())
    other = {"object": "released", "released": "object"}[object_text]
    with pytest.raises(
        CheckpointError, match=f"trained with object_text '{object_text}'.* wrong scores with '{other}'"
    ):
        load_partclipseg(path, object_text=other)


@pytest.mark.parametrize("size", [TINY, PLAIN])
def test_a_training_begins_from_a_hub_model(tmp_path, size):
    source = clipseg(size)
    state = {n: t for n, t in cloned(hub_names(source.state_dict())).items() if n.startswith(("clip.", "decoder."))}
    save_file(state, tmp_path / "model.safetensors")
    model, report = load_partclipseg(tmp_path, size, object_text="released")
    assert_shared_and_copied(model, source, except_for=ADAPTERS)
    assert set(report.initialised) == ADAPTERS | DRAWN
    assert report.kind == "hub model"
    assert model.object_text == "released"
    assert not model.decoder.pair_mix.bias.any()
    assert not model.decoder.pair_text.bias.any()


def test_a_training_begins_from_our_own_clipseg(tmp_path):
    source = clipseg()
    SYSTEMS["clipseg"].save(source, tmp_path / "w.safetensors")
    model, report = load_partclipseg(tmp_path / "w.safetensors")
    assert_shared_and_copied(model, source)
    assert set(report.initialised) == DRAWN
    assert (model.size, model.object_text) == (TINY, "object")


def test_a_training_begins_from_fine_tuned_weights_and_from_timojls_decoder(tmp_path):
    source = clipseg()
    torch.save({"model": cloned(fine_tuned_names(source.state_dict()))}, tmp_path / "ft.pth")
    model, report = load_partclipseg(tmp_path / "ft.pth", TINY)
    assert_shared_and_copied(model, source)
    assert set(report.initialised) == DRAWN
    torch.save(cloned(timojl_names(source.state_dict())), tmp_path / "rd64.pth")
    constants = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save(cloned(source.clip.state_dict()) | constants, tmp_path / "ViT-B-16.pt")
    model, report = load_partclipseg(tmp_path / "rd64.pth", TINY, tmp_path / "ViT-B-16.pt")
    assert_shared_and_copied(model, source, except_for=ADAPTERS)
    assert set(report.initialised) == ADAPTERS | DRAWN


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decoder.cond_film_mul.weight", "1 missing: partclipseg_model.decoder.cond_film_mul.weight"),
        ("non_object_embedding", "1 missing: partclipseg_model.non_object_embedding"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path, name, message):
    state = released_state(partclipseg())
    del state[f"partclipseg_model.{name}"]
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"w.pth .*does not fit the model: {message}$"):
        load_partclipseg(tmp_path / "w.pth", TINY)


def test_an_unexpected_tensor_is_named(tmp_path):
    state = released_state(partclipseg()) | {"partclipseg_model.decoder.part_obj_mlp.2.weight": torch.ones(1)}
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: partclipseg_model.decoder.part_obj_mlp.2.weight"):
        load_partclipseg(tmp_path / "w.pth", TINY)


def test_files_of_other_systems_are_refused(tmp_path):
    save_weights({"a": torch.ones(1)}, tmp_path / "ours.safetensors", {"system": "catseg"})
    with pytest.raises(CheckpointError, match="weights of 'catseg', not of 'partclipseg'"):
        load_partclipseg(tmp_path / "ours.safetensors")
    save_clip(build_clip(TINY_CLIP), TINY_CLIP, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"weights of 'clip', .*give it as clip_weights, for a new model"):
        load_partclipseg(tmp_path / "clip.safetensors")
    torch.save({"sem_seg_head.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no CLIPSeg checkpoint of a known kind.*sem_seg_head.weight"):
        load_partclipseg(tmp_path / "w.pth")


def test_clip_weights_beside_a_whole_model_are_refused(tmp_path):
    SYSTEMS["partclipseg"].save(partclipseg(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w.safetensors brings its own CLIP"):
        load_partclipseg(tmp_path / "w.safetensors", clip_path=tmp_path / "clip.pt")

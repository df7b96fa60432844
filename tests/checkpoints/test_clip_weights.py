import json

import pytest
import torch
from safetensors.torch import save_file

from ovparts_lib.checkpoints.clip import _activation, huggingface_names, load_clip_into, save_clip
from ovparts_lib.checkpoints.native import read_metadata
from ovparts_lib.checkpoints.reading import CheckpointError, read_tensors, weights_file
from ovparts_lib.models.clip.towers import VIT_B_16, ActivationError, ClipSize, activation_of, build_clip
from tests.golden.released_clipseg import manifest
from tests.systems.tiny import TINY_CLIP


def tiny(seed=0, quick_gelu=True):
    torch.manual_seed(seed)
    return build_clip(TINY_CLIP, quick_gelu=quick_gelu)


def load_clip(path, size=None, *, activation=None):
    """A CLIP built as the file says it was trained, with its weights."""
    metadata = read_metadata(path) or {}
    size = size or ClipSize(**metadata["size"])
    found = _activation(weights_file(path), read_tensors(path), metadata, activation)
    clip = build_clip(size, quick_gelu=found == "quick_gelu")
    return clip, load_clip_into(clip, path, activation=activation)


def assert_same(clip, other):
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in clip.state_dict().items())


def contiguous(state):
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def names_of_the_released_size():
    with torch.device("meta"):
        state = build_clip(VIT_B_16).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in huggingface_names(state, "clip.").items()}


def test_the_names_are_the_hubs(names_of_the_released_size):
    hub = {
        name: shape
        for name, (shape, floating) in manifest("hub_clipseg-rd64-refined").items()
        if name.startswith("clip.") and floating
    }
    assert names_of_the_released_size == hub


def test_the_key_map_gives_views_that_write_through():
    clip = tiny()
    renamed = huggingface_names(clip.state_dict())
    width = TINY_CLIP.vision_width
    fused = clip.visual.transformer.resblocks[1].attn.in_proj_weight
    for number, letter in enumerate("qkv"):
        part = renamed[f"vision_model.encoder.layers.1.self_attn.{letter}_proj.weight"]
        assert torch.equal(part, fused[number * width : (number + 1) * width])
        part.fill_(number)
    assert fused.detach()[:, 0].tolist() == [0.0] * width + [1.0] * width + [2.0] * width
    assert torch.equal(renamed["text_projection.weight"], clip.text_projection.T)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_folder_of_hugging_face_tells_its_activation(tmp_path, activation):
    source = tiny()
    state = contiguous(huggingface_names(source.state_dict()))
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_act": activation}}))
    clip, report = load_clip(tmp_path, TINY_CLIP)
    assert_same(clip, source)
    assert activation_of(clip) == activation
    assert report.dropped == ("text_model.embeddings.position_ids",)
    with pytest.raises(CheckpointError, match=f"trained with {activation}"):
        load_clip(tmp_path, TINY_CLIP, activation={"quick_gelu": "gelu", "gelu": "quick_gelu"}[activation])


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_folder_of_open_clip_tells_its_activation(tmp_path, quick_gelu):
    source = tiny()
    save_file(contiguous(source.state_dict()), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": quick_gelu}}))
    clip, _ = load_clip(tmp_path, TINY_CLIP)
    assert_same(clip, source)
    assert activation_of(clip) == ("quick_gelu" if quick_gelu else "gelu")


def test_openais_constants_mark_quick_gelu_and_are_dropped(tmp_path):
    source = tiny()
    constants = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    halves = {name: tensor.half() for name, tensor in source.state_dict().items()}
    torch.save(halves | constants, tmp_path / "ViT.pt")
    report = load_clip_into(clip := tiny(1), tmp_path / "ViT.pt")
    torch.testing.assert_close(clip.visual.proj, source.visual.proj.half().float(), rtol=0, atol=0)
    assert set(report.dropped) == set(constants)
    with pytest.raises(ActivationError, match=r"ViT.pt was trained with quick_gelu.*quick_gelu=True"):
        load_clip_into(tiny(quick_gelu=False), tmp_path / "ViT.pt")


def test_a_bare_state_dict_needs_its_activation_said(tmp_path):
    source = tiny()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"does not say whether .* as clip_weights \(CLIP weights\) give"):
        load_clip(tmp_path / "w.pt", TINY_CLIP)
    clip, _ = load_clip(tmp_path / "w.pt", TINY_CLIP, activation="gelu")
    assert_same(clip, source)
    assert activation_of(clip) == "gelu"


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_our_own_file_needs_nothing_said(tmp_path, quick_gelu):
    source = tiny(quick_gelu=quick_gelu)
    save_clip(source, TINY_CLIP, tmp_path / "mini.safetensors", seconds=90)
    clip, _ = load_clip(tmp_path / "mini.safetensors")
    assert_same(clip, source)
    assert activation_of(clip) == activation_of(source)


def test_strange_files_are_refused(tmp_path):
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"no CLIP with a ViT.*layer.weight"):
        load_clip(tmp_path / "w.pt", TINY_CLIP, activation="gelu")
    state = contiguous(huggingface_names(tiny().state_dict()))
    del state["text_model.encoder.layers.1.self_attn.q_proj.bias"]
    torch.save(state, tmp_path / "hf.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: text_model.encoder.layers.1.self_attn.q_proj.bias$"):
        load_clip(tmp_path / "hf.pt", TINY_CLIP, activation="quick_gelu")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        load_clip(tmp_path / "hf.pt", TINY_CLIP)

"""CLIP weights: OpenAI's archives, open_clip's and Hugging Face's files, and our own."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import open_clip
from torch import Tensor

from ovparts_lib.checkpoints.native import read_metadata, save_weights
from ovparts_lib.checkpoints.reading import (
    NAMES,
    CheckpointError,
    LoadReport,
    State,
    load_strictly,
    read_tensors,
    weights_file,
)
from ovparts_lib.models.clip.towers import Activation, ClipSize, activation_of, require_activation

OPENAI_CONSTANTS = ("input_resolution", "context_length", "vocab_size")
_TRANSPOSED = ("visual.proj", "text_projection")
_TOWERS = {"visual.transformer.resblocks.": "vision_model", "transformer.resblocks.": "text_model"}


def huggingface_names(state: State, prefix: str = "") -> dict[str, Tensor]:
    """A CLIP state dict in open_clip's layout, as Hugging Face names and cuts it.

    Args:
        state: any part of an open_clip CLIP's state dict, or tensors of the same names and shapes (gradients).
        prefix: put before every new name.

    Returns:
        Views of the tensors: fused query-key-value projections cut in three, the two output projections transposed.
        Writing into them writes into ``state``; ``load_strictly`` uses that for the other direction.

    Raises:
        KeyError: a name that is not open_clip's.
    """
    renamed = {}
    for name, tensor in state.items():
        tower = next((tower for tower in _TOWERS if name.startswith(tower)), None)
        if tower is None:
            renamed[prefix + NAMES["clip_outside_blocks"][name]] = tensor.T if name in _TRANSPOSED else tensor
            continue
        number, _, inner = name.removeprefix(tower).partition(".")
        block = f"{prefix}{_TOWERS[tower]}.encoder.layers.{number}"
        if inner.startswith("attn.in_proj_"):
            renamed |= split_projections(tensor, f"{block}.self_attn", inner.removeprefix("attn.in_proj_"))
        else:
            module, _, leaf = inner.rpartition(".")
            renamed[f"{block}.{NAMES['clip_in_blocks'][module]}.{leaf}"] = tensor
    return renamed


def split_projections(fused: Tensor, block: str, leaf: str) -> dict[str, Tensor]:
    """A fused attention projection's thirds (views), named ``{block}.{q,k,v}_proj.{leaf}``."""
    return {f"{block}.{letter}_proj.{leaf}": part for letter, part in zip("qkv", fused.chunk(3), strict=True)}


def is_position_ids(name: str) -> bool:
    """Whether a tensor is the constant 0, 1, 2, … that older transformers versions stored with their models."""
    return name.endswith(".position_ids")


def is_openai_constant(name: str) -> bool:
    """Whether a tensor of OpenAI's archives is a constant that we compute."""
    return name in OPENAI_CONSTANTS or name.endswith("attn_mask")


def load_clip_into(clip: open_clip.CLIP, path: str | Path, *, activation: Activation | None = None) -> LoadReport:
    """Load CLIP weights into a model that exists.

    Args:
        clip: receives the weights.
        path: OpenAI's TorchScript archive (its code is not run), a state dict in open_clip's or Hugging Face's layout,
            a folder of either, or a file of our own.
        activation: of the weights. Archives by OpenAI, folders with their configuration and our own files tell; for a
            bare state dict it has to be said, because the wrong one gives plausible but wrong embeddings.

    Raises:
        CheckpointError: unreadable, unknown layout, activation not known, or tensors missing, unexpected, misshapen.
        ActivationError: the weights' activation is not the model's.
    """
    state = read_tensors(path)
    found = _activation(weights_file(path), state, read_metadata(path) or {}, activation)
    require_activation(clip, found, str(path))
    if "text_model.final_layer_norm.weight" in state:
        kind = "CLIP in Hugging Face's layout"
        return load_strictly(clip, state, path, kind, names=huggingface_names, drop=is_position_ids)
    if "visual.conv1.weight" not in state:
        raise CheckpointError(f"{path} holds no CLIP with a ViT image tower; its first tensors: {list(state)[:5]}")
    return load_strictly(clip, state, path, "CLIP in OpenAI's layout", drop=is_openai_constant)


def save_clip(clip: open_clip.CLIP, size: ClipSize, path: str | Path, **metadata: object) -> Path:
    """Write a CLIP as our own file, so that :func:`load_clip_into` needs no more than its path.

    Args:
        clip: the model.
        size: its hyper-parameters.
        path: file to write, ``….safetensors``.
        **metadata: anything JSON can say that should be kept with the weights.
    """
    own = {"system": "clip", "size": asdict(size), "activation": activation_of(clip)}
    return save_weights(clip, path, {**metadata, **own})


def _activation(file: Path, state: State, metadata: Mapping, given: Activation | None) -> Activation:
    """Activation of the weights, from the file, its neighbours, or the caller, in this order."""
    found = metadata.get("activation")
    hub, clip_hub = (_json(file.with_name(name)) for name in ("config.json", "open_clip_config.json"))
    if found is None and all(name in state for name in OPENAI_CONSTANTS):
        found = "quick_gelu"
    elif found is None and "model_cfg" in clip_hub:
        found = "quick_gelu" if clip_hub["model_cfg"].get("quick_gelu") else "gelu"
    elif found is None and "text_config" in hub:
        found = hub["text_config"].get("hidden_act", "quick_gelu")
    if found is None and given is None:
        raise CheckpointError(
            f"{file} does not say whether it was trained with QuickGELU (activation quick_gelu: OpenAI's weights and "
            "those derived from them) or with GELU (activation gelu: most others); as clip_weights (CLIP weights) give "
            "a file that does, such as OpenAI's ViT-B-16.pt, or a hub folder with its config.json"
        )
    if found is not None and given is not None and found != given:
        raise CheckpointError(f"{file} was trained with {found}, not with {given}")
    return found or given


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error

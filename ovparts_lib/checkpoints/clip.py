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
    renaming,
    weights_file,
)
from ovparts_lib.models.clip.towers import Activation, ActivationError, ClipSize, activation_of

OPENAI_CONSTANTS = ("input_resolution", "context_length", "vocab_size")
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_huggingface_names = renaming(NAMES["huggingface_clip"])


def huggingface_names(state: State, prefix: str = "") -> dict[str, Tensor]:
    """A CLIP state dict in open_clip's layout, as Hugging Face names and cuts it.

    Args:
        state: any part of an open_clip CLIP's state dict, or tensors of the same names and shapes (gradients).
        prefix: put before every new name.

    Returns:
        Views of the tensors: fused query-key-value projections cut in three, the two output projections transposed.
        Writing into them writes into ``state``; ``load_strictly`` uses that for the other direction.
    """
    renamed = _huggingface_names(state).items()
    return split_projections({prefix + name: tensor.T if name in _TRANSPOSED else tensor for name, tensor in renamed})


def split_projections(state: State) -> dict[str, Tensor]:
    """A state dict with the thirds (views) of fused attention projections as ``….q_proj.…``, ``k_proj``, ``v_proj``."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block, fused, leaf = name.partition(".in_proj_")
        thirds = zip("qkv", tensor.chunk(3), strict=True) if fused else ()
        split |= {f"{block}.{letter}_proj.{leaf}": third for letter, third in thirds} or {name: tensor}
    return split


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
    if activation_of(clip) != found:
        raise ActivationError(
            f"{path} was trained with {found}, but this CLIP computes {activation_of(clip)}; build it with "
            f"build_clip(size, quick_gelu={found == 'quick_gelu'})"
        )
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

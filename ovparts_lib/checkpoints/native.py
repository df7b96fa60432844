"""The workbook's own weight files: safetensors with a description, written so that a crash cannot spoil an old one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ovparts_lib.atomic import replacing
from ovparts_lib.checkpoints.reading import CheckpointError, read_tensors, weights_file

FORMAT = "ovparts 1"


class WeightsNotSavedError(OSError):
    """Weights could not be written; a file that was there before is untouched."""


def save_weights(source: nn.Module | Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, Any]) -> Path:
    """Write a module's state, or a state dict, as safetensors: whole or not at all.

    The bytes go to a temporary file beside ``path``, reach the disk, and only then take its name.

    Args:
        source: module or state dict; tensors may be on any device.
        path: file to write; missing folders are made.
        metadata: what the file is, for example ``{"system": "clipseg", "size": {...}}``; anything JSON can say.

    Returns:
        The path.

    Raises:
        WeightsNotSavedError: no space, no permission, …
    """
    path = Path(path)
    state = source.state_dict() if isinstance(source, nn.Module) else source
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    described = {"format": FORMAT, **{key: json.dumps(value) for key, value in metadata.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(save(tensors, described))  # as bytes, so that a full disk is an OSError like any other
    except OSError as error:
        kept = "; the file that was there is unchanged" if path.exists() else ""
        raise WeightsNotSavedError(error.errno, f"weights not saved to {path}: {error.strerror}{kept}") from error
    return path


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """Metadata that :func:`save_weights` wrote into a file; None for a file of another origin.

    Raises:
        CheckpointError: no such file.
    """
    try:
        with safe_open(weights_file(path), framework="pt") as file:
            described = file.metadata() or {}
    except SafetensorError:
        return None
    if described.get("format") != FORMAT:
        return None
    return {key: json.loads(value) for key, value in described.items() if key != "format"}


def load_weights(path: str | Path, system: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by :func:`save_weights`.

    Args:
        path: the file.
        system: what its metadata must say under ``system``; None for anything.

    Raises:
        CheckpointError: unreadable, of another origin, or of another system.
    """
    metadata = read_metadata(path)
    if metadata is None:
        raise CheckpointError(f"{path} was not written by this workbook")
    if system is not None and metadata.get("system") != system:
        raise CheckpointError(f"{path} holds weights of {metadata.get('system')!r}, not of {system!r}")
    return read_tensors(path), metadata

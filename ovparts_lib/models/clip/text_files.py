"""Embeddings of texts as files that several processes share: read if intact, set aside if not, written whole."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovparts_lib.atomic import replacing, set_aside, sweep

logger = logging.getLogger(__name__)
FORMAT = 1  # part of every name: raise it when what is computed changes
_NAME = "embeddings"


def file_name(key: tuple[Any, ...]) -> str:
    """The file of what embeddings depend on: texts, templates, precision, device, and the checksum of the weights."""
    return f"{hashlib.sha256(repr((FORMAT, *key)).encode()).hexdigest()[:40]}.safetensors"


def read_embeddings(path: Path) -> Tensor | None:
    """The embeddings of a file, on the CPU; None if there is none, or it was damaged, and then set aside."""
    try:
        with safe_open(path, "pt") as file:
            embeddings, stated = file.get_tensor(_NAME), (file.metadata() or {}).get("sha256")
        if stated == _digest(embeddings):
            return embeddings
        damage = "its content has changed"
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        damage = str(error)
    try:
        set_aside(path, damage)
    except OSError as error:  # another process was first, or the folder cannot be written
        logger.warning("%s is damaged (%s) and cannot be set aside (%s)", path, damage, error)
    return None


def write_embeddings(path: Path, embeddings: Tensor) -> None:
    """Write a file as a whole; where that is impossible, say so in the log and go on without."""
    embeddings = embeddings.detach().cpu().contiguous()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, ".*.part")
        with replacing(path) as partial:
            save_file({_NAME: embeddings}, partial, {"sha256": _digest(embeddings)})
    except (OSError, SafetensorError) as error:
        logger.warning("cannot keep text embeddings in %s (%s); they will be computed again", path.parent, error)


def _digest(embeddings: Tensor) -> str:
    return hashlib.sha256(memoryview(embeddings.numpy()).cast("B")).hexdigest()

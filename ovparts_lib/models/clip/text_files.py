"""Embeddings of texts as files that several processes share: read if intact, set aside if not, written whole.

Their folder holds at most ``LIMIT`` bytes; what was used longest ago goes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovparts_lib.atomic import replacing, set_aside, sweep

logger = logging.getLogger(__name__)
FORMAT = 1  # part of every name: raise it when what is computed changes
LIMIT = 2 * 2**30  # bytes; the largest list, 847 classes in 80 templates, takes 0.2 GB with ViT-L/14
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
            with contextlib.suppress(OSError):
                os.utime(path)  # used now, which many file systems do not record of reading
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
        _remove_above_limit(path.parent)
    except (OSError, SafetensorError) as error:
        logger.warning("cannot keep text embeddings in %s (%s); they will be computed again", path.parent, error)


def _remove_above_limit(folder: Path) -> None:
    files = [(file, file.stat()) for file in folder.iterdir() if file.suffix in (".safetensors", ".damaged")]
    kept = 0
    for file, status in sorted(files, key=lambda pair: pair[1].st_mtime_ns, reverse=True):
        kept += status.st_size
        if kept > LIMIT:
            file.unlink(missing_ok=True)


def _digest(embeddings: Tensor) -> str:
    return hashlib.sha256(memoryview(embeddings.numpy()).cast("B")).hexdigest()

"""Weights of any system this workbook knows, recognised by what their file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ovparts_lib.checkpoints.clipseg import load_clipseg
from ovparts_lib.checkpoints.native import read_metadata
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport

Loader = Callable[..., tuple[nn.Module, LoadReport]]
SYSTEMS: dict[str, Loader] = {"clipseg": load_clipseg}
RUN_WEIGHTS = "weights.safetensors"


def load_system(path: str | Path, clip_path: str | Path | None = None, **options: Any) -> tuple[nn.Module, LoadReport]:
    """A system with its weights, ready to ``predict``.

    Args:
        path: the folder of a finished run, one of our own files, or a released checkpoint (file or folder).
        clip_path: CLIP weights, for a released file that holds a decoder only.
        **options: passed on to the system.

    Raises:
        CheckpointError: nothing there, a run that has no weights yet, or a file that is no system's.
    """
    path = Path(path)
    if (path / "params.yaml").is_file():
        if not (path / RUN_WEIGHTS).is_file():
            raise CheckpointError(f"{path} is a run folder without {RUN_WEIGHTS}: finish that run first")
        path = path / RUN_WEIGHTS
    metadata = read_metadata(path)
    system = metadata.get("system") if metadata else "clipseg"
    if system not in SYSTEMS:
        raise CheckpointError(f"{path} holds {system!r}, which is none of the systems here: {', '.join(SYSTEMS)}")
    return SYSTEMS[system](path, clip_path=clip_path, **options)

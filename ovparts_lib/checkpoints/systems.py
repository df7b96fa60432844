"""The systems this workbook knows, and weights of any of them, recognised by what their file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ovparts_lib.checkpoints.catseg import load_catseg, save_catseg
from ovparts_lib.checkpoints.clipseg import load_clipseg, save_clipseg
from ovparts_lib.checkpoints.native import read_metadata
from ovparts_lib.checkpoints.partcatseg import load_partcatseg, save_partcatseg
from ovparts_lib.checkpoints.partclipseg import load_partclipseg, save_partclipseg
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, read_tensors
from ovparts_lib.models import catseg, clipseg, partcatseg, partclipseg

RUN_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class System:
    """What the workbook needs to build, load and save a system.

    Attributes:
        title: as in tables.
        model: class of the model, called with a size and options; its CLIP is ``model.clip``.
        sizes: hyper-parameters by name, ``released`` and ``miniature``.
        groups: ``{group: beginnings of parameter names}``, what ``set_trainable`` knows.
        load: (path, size, clip_path, **options) -> model and report.
        save: (model, path, **metadata) -> path.
        mark: piece of a tensor name that tells its released files from those of the systems listed after it; ``""``
            for the system that takes what no other claims.
    """

    title: str
    model: type[nn.Module]
    sizes: Mapping[str, Any]
    groups: Mapping[str, tuple[str, ...]]
    load: Callable[..., tuple[nn.Module, LoadReport]]
    save: Callable[..., Path]
    mark: str


SYSTEMS: dict[str, System] = {
    "partcatseg": System(
        "PartCATSeg",
        partcatseg.PartCatseg,
        {
            "released": partcatseg.RELEASED,
            "miniature": partcatseg.MINIATURE_PARTCATSEG,
            "miniature_unguided": catseg.without_guidance(partcatseg.MINIATURE_PARTCATSEG),
        },
        partcatseg.TRAINABLE_GROUPS,
        load_partcatseg,
        save_partcatseg,
        mark=".transformer.conv2.",
    ),
    "catseg": System(
        "CATSeg",
        catseg.Catseg,
        {
            "released": catseg.RELEASED,
            "released_dinov2": catseg.RELEASED_DINOV2,
            "miniature": catseg.MINIATURE_CATSEG,
            "miniature_unguided": catseg.without_guidance(catseg.MINIATURE_CATSEG),
        },
        catseg.TRAINABLE_GROUPS,
        load_catseg,
        save_catseg,
        mark=".transformer.conv1.",
    ),
    "partclipseg": System(
        "PartCLIPSeg",
        partclipseg.Partclipseg,
        {"released": partclipseg.RELEASED, "miniature": partclipseg.MINIATURE_PARTCLIPSEG},
        partclipseg.TRAINABLE_GROUPS,
        load_partclipseg,
        save_partclipseg,
        mark="partclipseg_model.",
    ),
    "clipseg": System(
        "CLIPSeg",
        clipseg.Clipseg,
        {"released": clipseg.RELEASED, "miniature": clipseg.MINIATURE_CLIPSEG},
        clipseg.TRAINABLE_GROUPS,
        load_clipseg,
        save_clipseg,
        mark="",
    ),
}


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
    system = metadata.get("system") if metadata else _recognised(path)
    if system not in SYSTEMS:
        raise CheckpointError(f"{path} holds {system!r}, which is none of the systems here: {', '.join(SYSTEMS)}")
    return SYSTEMS[system].load(path, clip_path=clip_path, **options)


def _recognised(path: Path) -> str:
    """Which system a file of another origin belongs to, by the names of its tensors."""
    names = list(read_tensors(path))
    return next(name for name, system in SYSTEMS.items() if any(system.mark in key for key in names))

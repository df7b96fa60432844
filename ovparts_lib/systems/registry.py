"""The systems this workbook knows, and weights of any of them, recognised by what their file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ovparts_lib.checkpoints.native import read_metadata, within_its_file
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, read_tensors
from ovparts_lib.systems.catseg import model as catseg
from ovparts_lib.systems.catseg.weights import load_catseg, save_catseg
from ovparts_lib.systems.clipseg import model as clipseg
from ovparts_lib.systems.clipseg.weights import load_clipseg, save_clipseg
from ovparts_lib.systems.partcatseg import model as partcatseg
from ovparts_lib.systems.partcatseg.weights import load_partcatseg, save_partcatseg
from ovparts_lib.systems.partclipseg import model as partclipseg
from ovparts_lib.systems.partclipseg.weights import load_partclipseg, save_partclipseg


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
            "released_unguided": catseg.without_guidance(partcatseg.RELEASED),
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
            "released_unguided": catseg.without_guidance(catseg.RELEASED),
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


# Tensors that tell weights of one part of a system, which are no system's checkpoint.
PARTS = {
    "CLIP": ("visual.conv1.weight", "text_model.final_layer_norm.weight"),
    "DINOv2": ("patch_embed.proj.weight",),
    "a ResNet": ("layer1.0.conv1.weight", "stem.conv1.weight"),
}


def load_system(
    path: str | Path, clip_path: str | Path | None = None, *, allow_untrained: bool = False, **options: Any
) -> tuple[nn.Module, LoadReport]:
    """A system with its weights, ready to ``predict``.

    Args:
        path: the folder of a finished run, one of our own files, or a released checkpoint (file or folder).
        clip_path: CLIP weights, for a released file that holds a decoder only.
        allow_untrained: take a file that begins a training and lacks something of the system, which then is random;
            the report names it.
        **options: passed on to the system.

    Raises:
        CheckpointError: nothing there, a run that has no weights yet, a file that is no system's, or one that does not
            hold all of its system.
    """
    path = Path(path)
    metadata = read_metadata(path)
    system = metadata.get("system") if metadata else _recognised(path)
    if system == "clip":
        raise CheckpointError(_part_alone(path, "CLIP"))
    if system not in SYSTEMS:
        raise CheckpointError(f"{path} holds {system!r}, which is none of the systems here: {', '.join(SYSTEMS)}")
    with within_its_file(path):
        model, report = SYSTEMS[system].load(path, clip_path=clip_path, **options)
    if report.initialised and not allow_untrained:
        raise CheckpointError(
            f"{untrained(report, SYSTEMS[system])}. Train from it first, or give a trained checkpoint; allow_untrained "
            "takes it all the same"
        )
    return model, report


def system_of(model: nn.Module) -> System:
    """The system that a model is one of."""
    return next(system for system in SYSTEMS.values() if type(model) is system.model)


def untrained(report: LoadReport, system: System) -> str:
    """What a message says of a file that does not hold all of a system: which tensors would stay random."""
    names = report.initialised
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (
        f"{report.source} ({report.kind}) does not hold all of {system.title}: {len(names)} "
        f"{'tensor' if len(names) == 1 else 'tensors'} would stay random, {', '.join(names[:8])}{more}"
    )


def _part_alone(path: Path, part: str) -> str:
    """What a message says of a file that holds one part of a system."""
    return (
        f"{path} holds {part} alone, which is a part of a system and no checkpoint of one; a training can begin from "
        "it, and what that leaves can be given here"
    )


def _recognised(path: Path) -> str:
    """Which system a file of another origin belongs to, by the names of its tensors."""
    names = list(read_tensors(path))
    for part, marks in PARTS.items():
        if any(mark in names for mark in marks):
            raise CheckpointError(_part_alone(path, part))
    return next(name for name, system in SYSTEMS.items() if any(system.mark in key for key in names))

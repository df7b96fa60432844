"""The systems there are, found by their folders, and weights of any of them, recognised by what their file says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import ovparts_lib.systems
from ovparts_lib.systems.system import System

if TYPE_CHECKING:
    from torch import nn

    from ovparts_lib.checkpoints.reading import LoadReport

# Tensors that tell weights of one part of a system, which are no system's checkpoint.
PARTS = {
    "CLIP": ("visual.conv1.weight", "text_model.final_layer_norm.weight"),
    "DINOv2": ("patch_embed.proj.weight",),
    "a ResNet": ("layer1.0.conv1.weight", "stem.conv1.weight"),
}
SYSTEMS: dict[str, System] = {}


def find_systems(folder: str | Path | None = None) -> None:
    """Fill ``SYSTEMS`` with every folder of :mod:`ovparts_lib.systems`, in the order of their notebooks.

    Args:
        folder: another folder of systems, from now on searched as well. Other processes learn of it from the
            environment variable ``OVPARTS_SYSTEMS``.
    """
    path = ovparts_lib.systems.__path__
    if folder is not None and str(folder) not in path:
        path.append(str(folder))
    names = [module.name for module in iter_modules(path) if module.ispkg]
    found = [import_module(f"ovparts_lib.systems.{name}").SYSTEM for name in names]
    SYSTEMS.clear()
    SYSTEMS.update((system.name, system) for system in sorted(found, key=lambda system: system.notebook))


find_systems()


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
        CheckpointError: nothing there, a run that has no weights yet, a file that is no system's, one that does not
            hold all of its system, or an option that the system has not.
    """
    from ovparts_lib.checkpoints.native import read_metadata, within_its_file
    from ovparts_lib.checkpoints.reading import CheckpointError

    path = Path(path)
    metadata = read_metadata(path)
    name = metadata.get("system") if metadata else _recognised(path)
    if name == "clip":
        raise CheckpointError(_part_alone(path, "CLIP"))
    if name not in SYSTEMS:
        raise CheckpointError(f"{path} holds {name!r}, which is none of the systems here: {', '.join(SYSTEMS)}")
    system = SYSTEMS[name]
    if unknown := sorted(set(options) - system.loader_options):
        raise CheckpointError(f"{path} is of {system.title}, which has no {' and no '.join(unknown)}; leave it out")
    with within_its_file(path):
        model, report = system.load(path, clip_path=clip_path, **options)
    if report.initialised and not allow_untrained:
        raise CheckpointError(
            f"{untrained(report, system)}. Train from it first, or give a trained checkpoint; allow_untrained takes it "
            "all the same"
        )
    return model, report


def system_of(model: nn.Module) -> System:
    """The system that a model is one of."""
    return next(system for system in SYSTEMS.values() if system.model_class is type(model))


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
    from ovparts_lib.checkpoints.reading import CheckpointError, read_tensors

    names = list(read_tensors(path))
    for part, marks in PARTS.items():
        if any(mark in names for mark in marks):
            raise CheckpointError(_part_alone(path, part))
    fitting = [
        system for system in SYSTEMS.values() if all(any(mark in name for name in names) for mark in system.marks)
    ]
    if not fitting:
        titles = ", ".join(system.title for system in SYSTEMS.values())
        raise CheckpointError(f"{path} is no checkpoint of {titles}; its first tensors: {names[:5]}")
    return max(fitting, key=lambda system: len(system.marks)).name

"""Training checkpoints on disk: written atomically, verified when read, the last two kept."""

import hashlib
import os
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ovparts_lib.atomic import replacing, room, sweep

KEPT = 2
# The name ends with the first digits of the content's SHA-256 (as torch.hub's files do), so that a file proves itself.
_NAME = re.compile(r"step_(\d+)-([0-9a-f]{16})\.pt")


class CheckpointWriteError(OSError):
    """A checkpoint could not be written (disk full, quota, permissions); the earlier ones are intact."""


class CorruptCheckpointError(RuntimeError):
    """There are checkpoints, but none of them can be read."""


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest step first."""
    found = [(int(match[1]), path) for path in folder.glob("step_*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def write_checkpoint(content: dict[str, Any], folder: Path, step: int) -> Path:
    """Write ``folder/step_00000123-<digest>.pt`` and delete all but the last two checkpoints.

    The file appears under its name only when it is complete and on disk, so a crash or a full disk at any moment
    leaves the earlier checkpoints as they were.

    Raises:
        CheckpointWriteError: the file system refused; the message names the path and the bytes needed.
    """
    stream = BytesIO()  # not the file: what a disk refuses would leave torch's writer as another error
    torch.save(content, stream)
    data = stream.getbuffer()
    path = folder / f"step_{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        before = checkpoint_files(folder)
        kept = f"the checkpoint before it, {before[-1].name}, is intact" if before else "there is no earlier checkpoint"
        raise CheckpointWriteError(
            error.errno,
            f"the checkpoint of step {step} could not be written to {folder}: {os.strerror(error.errno)}; it needs "
            f"{len(data):,} bytes{room(folder, error)}; {kept}. Make room and resume",
        ) from error
    _delete_old(folder, path)
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose content is what was written, or None if the folder holds none.

    A corrupt one is set aside as ``….pt.corrupt`` with a warning, and the one before it is taken.

    Raises:
        CorruptCheckpointError: there are checkpoints but none is intact.
    """
    sweep(folder, ".step_*.part")
    for path in reversed(checkpoint_files(folder)):
        if is_intact(path):
            return path
        aside = path.replace(path.with_name(f"{path.name}.corrupt"))
        warnings.warn(f"{path} is corrupt; set aside as {aside.name}, going back to the one before it", stacklevel=2)
    damaged = sorted(folder.glob("*.pt.corrupt"))
    if not damaged:
        return None
    raise CorruptCheckpointError(
        f"no checkpoint in {folder} is intact ({', '.join(path.name for path in damaged)}); "
        "put back a copy of one, or start over with --again"
    )


def is_intact(path: Path) -> bool:
    """Whether the content of a checkpoint has the digest its name says."""
    match = _NAME.fullmatch(path.name)
    with path.open("rb") as file:
        return match is not None and hashlib.file_digest(file, "sha256").hexdigest().startswith(match[2])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU; code that may be in the file is not run."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _delete_old(folder: Path, newest: Path) -> None:
    same_step, files = f"{newest.name.partition('-')[0]}-", checkpoint_files(folder)
    others = [path for path in files if not path.name.startswith(same_step)]
    for path in set(files) - {newest, *others[1 - KEPT :]}:
        path.unlink()

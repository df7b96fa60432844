"""Writing the files that say what a run is, so that a reader finds the old content or the new, never a half."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(OSError):
    """There is no space left (or no quota) for a file of a run; files written before are intact."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by a file with ``content``, which is on the disk when this returns.

    The content goes to a temporary file in the same folder, is flushed to the disk, and is renamed over ``path``.

    Raises:
        DiskFullError: no space left; ``path`` is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = -1, ""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        # mkstemp makes files for the owner only; runs are shared within a group as the umask says.
        os.fchmod(descriptor, 0o666 & ~_umask())
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 (the name comes from tempfile as text)
        _sync_folder(path.parent)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
        if error.errno in _NO_SPACE:
            raise disk_full(path, len(data)) from error
        raise


def disk_full(path: Path, size: int | None = None) -> DiskFullError:
    """The error to raise when writing ``path`` failed for want of space; ``size`` is what it needed, in bytes."""
    need = f" ({size:,} bytes)" if size is not None else ""
    with contextlib.suppress(OSError):
        need += f", {shutil.disk_usage(path.parent).free:,} bytes are free"
    return DiskFullError(
        errno.ENOSPC,
        f"no space left to write {path}{need}. Earlier files are intact; free some space and do the same again: "
        "an unfinished run resumes",
        str(path),
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def to_json(value: Any) -> str:
    """Indented JSON that any reader accepts: NaN and infinities become null, NumPy scalars become numbers."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item") and not isinstance(value, str | bytes | int | float | bool):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems that cannot sync a folder are left as they are."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

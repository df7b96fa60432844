"""Results of slow passes over a dataset's files, kept until a file changes."""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovparts_lib.atomic import write_atomically

logger = logging.getLogger(__name__)


def files_key(files: Iterable[Path], root: Path, *also: str) -> str:
    """32 hexadecimal digits over name, size and times of files, and over any other strings.

    The time of the last change of the inode tells of a new content even where size and modification time were kept or
    put back, and nobody can set it. Names are relative to ``root`` where they lie in it.
    """
    lines = list(also)
    for path in sorted(files):
        stat = path.stat()
        name = path.relative_to(root) if path.is_relative_to(root) else path
        lines.append(f"{name.as_posix()!r} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def read_cache(folder: Path, name: str, key: str) -> Any | None:
    """The value stored as ``name``, or None when there is none, it is damaged, or it was stored under another key."""
    try:
        stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return stored["value"] if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_cache(folder: Path, name: str, key: str, value: Any) -> None:
    """Store a JSON value atomically; where the folder cannot be written, say so in the log and go on without."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{name}.json", json.dumps({"key": key, "value": value}))
    except OSError as error:
        logger.warning("cannot keep results in %s (%s); they will be computed again next time", folder, error)

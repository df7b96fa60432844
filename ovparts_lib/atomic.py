"""Writing files so that a reader finds the old content or the new, never a half, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

_LONGEST_NAME = 100  # bytes; file systems take 255, and endings and temporary names come on top
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(OSError):
    """There is no space left (or no quota) for a file; files written before are intact."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``: flushed to the disk and renamed over it when the block ends well, else removed.

    Raises:
        DiskFullError: no space left; ``path`` is as it was.
    """
    partial: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        partial = Path(name)
        os.close(descriptor)
        yield partial
        # mkstemp makes files for the owner only; results are shared within a group as the umask says.
        partial.chmod(0o666 & ~_umask())
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        size = None
        if partial is not None:
            with contextlib.suppress(OSError):
                size = partial.stat().st_size
                partial.unlink()
        if is_disk_full(error):
            raise disk_full(path, size) from error
        raise


def safe_name(text: str) -> str:
    """A piece of a file name that says a text: the same for the same text, another for any other.

    Letters and digits of all scripts, ``.``, ``-`` and ``_`` stay, blanks become ``_``. A text that holds anything
    else, begins with a dot, or is longer than 100 bytes ends in six digits of its hash.
    """
    composed = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    name = "".join(sign if sign.isalnum() or sign in ".-_" else "_" for sign in composed).lstrip(".")
    short = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
    if short and short == text.replace(" ", "_") and (" " not in text or "_" not in text):
        return short
    return f"{short}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}".lstrip("_")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by a file with ``content``, which is on the disk when this returns.

    Raises:
        DiskFullError: no space left; ``path`` is as it was.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def disk_full(path: Path, size: int | None = None) -> DiskFullError:
    """The error to raise when writing ``path`` failed for want of space; ``size`` bytes had been written."""
    written = f" ({size:,} bytes written)" if size else ""
    with contextlib.suppress(OSError):
        written += f", {shutil.disk_usage(path.parent).free:,} bytes are free"
    return DiskFullError(
        errno.ENOSPC,
        f"no space left to write {path}{written}. Earlier files are intact; free some space and do the same again: "
        "an unfinished run resumes",
        str(path),
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems that cannot sync a folder are left as they are."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

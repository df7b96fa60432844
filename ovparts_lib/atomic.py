"""Writing files so that a reader finds the old content or the new, never a half, whatever happens meanwhile."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
import unicodedata
import warnings
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
    with saying_disk_full(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        partial = Path(name)
        try:
            with _locked(descriptor):
                yield partial
            # mkstemp makes files for the owner only; results are shared within a group as the umask says.
            partial.chmod(0o666 & ~_umask())
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill, which takes its place as a whole when the block ends well, else is removed.

    At no moment does ``path`` hold a part of the old or the new. What killed processes left on this way goes first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, f".{glob.escape(path.name)}.*.draft")
    draft, old = (Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".draft")) for _ in range(2))
    with _locked(os.open(draft, os.O_RDONLY)), _locked(os.open(old, os.O_RDONLY)):
        try:
            yield draft
            draft.chmod(0o777 & ~_umask())
            if path.exists():
                path.replace(old)
            draft.replace(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path, pattern: str) -> None:
    """Remove temporary files and folders of this pattern whose process has ended; one that lives holds their lock."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            finally:
                os.close(descriptor)


def set_aside(path: Path, why: object) -> Path:
    """Rename a damaged file to ``<name>.damaged``, with a warning, so that it can be made again."""
    aside = path.replace(path.with_name(f"{path.name}.damaged"))
    warnings.warn(f"{path} is damaged; set aside as {aside.name} and made again ({why})", stacklevel=2)
    return aside


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Hold the lock that tells :func:`sweep` to leave a file alone; file systems without locks do without."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        os.close(descriptor)


def safe_name(text: str) -> str:
    """A piece of a file name that says a text: the same for the same text, another for any other.

    Letters and digits of all scripts, ``.``, ``-`` and ``_`` stay; ``_`` stands for anything else. A text that holds
    anything else, begins with a dot, or is longer than 100 bytes ends in six digits of its hash.
    """
    composed = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    name = "".join(sign if sign.isalnum() or sign in ".-_" else "_" for sign in composed).lstrip(".")
    short = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
    if short and short == text:
        return short
    return f"{short}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}".lstrip("_")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by a file with ``content``, which is on the disk when this returns.

    Raises:
        DiskFullError: no space left; ``path`` is as it was.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def saying_disk_full(path: Path) -> Iterator[None]:
    """Raise DiskFullError, naming ``path``, where writing it inside the block fails for want of space or quota.

    Other errors of a temporary file beside ``path`` name ``path`` too.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            if not str(error.filename).startswith(str(path.with_name(f".{path.name}."))):
                raise
            folder = isinstance(error, IsADirectoryError)
            why = "is a folder, where a file is to be written" if folder else error.strerror
            raise OSError(error.errno, why, str(path)) from error
        short = "no quota" if error.errno == errno.EDQUOT else "no space"
        advice = "Earlier files are intact; make room and do the same again: an unfinished run resumes"
        what = f"{short} left to write {path}{room(path, error)}. {advice}"
        raise DiskFullError(error.errno, what, str(path)) from error


def room(path: Path, error: OSError) -> str:
    """``", 512 bytes are free"``, to end a sentence with; or that a quota is used up, whatever the disk has free."""
    if error.errno == errno.EDQUOT:
        return ": your quota on this file system, or your group's, is used up"
    with contextlib.suppress(OSError):
        return f", {shutil.disk_usage(path.parent).free:,} bytes are free"
    return ""


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

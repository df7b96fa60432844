"""One writer per run folder, enforced by the operating system."""

import contextlib
import fcntl
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

from ovparts_lib.atomic import saying_disk_full

_ATTEMPTS, _PAUSE_SECONDS = 4, 0.05
_HELD: set["FolderLock"] = set()


class RunLockedError(RuntimeError):
    """Another process works in the run folder; the message says which, and since when."""


class FolderLock:
    """An exclusive lock on a file, held by this process until :meth:`release` or its death, even by ``kill -9``.

    The lock is ``flock``'s, so nothing stale is left behind; what the file says (who, where, since when) only serves
    the error message. Linux passes ``flock`` on to NFS servers (version 4, or 3 with lockd), so it also holds between
    nodes that share a folder; mounts with ``nolock`` or ``local_lock=flock`` exclude processes on one node only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            RunLockedError: another process (or another object of this one) holds it.
            DiskFullError: there is no space for the lock file.
        """
        if self._descriptor is not None:
            return
        with saying_disk_full(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise RunLockedError(self._who()) from None
        self._descriptor = descriptor
        _HELD.add(self)
        # Failing to note who holds the lock (a full disk) only makes another process's message poorer.
        with contextlib.suppress(OSError):
            _sign(descriptor)

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _HELD.discard(self)

    def is_taken(self) -> bool:
        """Whether any process holds the lock at this moment; False if that cannot be found out."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        finally:
            os.close(descriptor)
        return False

    def _who(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            who = f"process {holder['pid']} on {holder['host']} has been working in it since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process is working in it"
        return f"{self.path.parent} is locked: {who}. Wait for it or stop it, or choose another `run` name"


def _lock(descriptor: int) -> None:
    """Take the lock; a few attempts, because :meth:`FolderLock.is_taken` of another process holds it for an instant."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_PAUSE_SECONDS)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _forget_in_child() -> None:
    """A forked data-loading worker must not keep its parent's lock alive after the parent was killed."""
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)

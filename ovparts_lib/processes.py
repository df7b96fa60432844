"""This process among others: signals it gets, what those it starts inherit, their end, and who reads what it says."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
_SECONDS_BETWEEN_LOOKS = 1.0
_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Let this process get a signal when the one that started it ends, however that ends (``kill -9`` included).

    Called first thing in the child. Linux's kernel does it at once; elsewhere a thread looks every second.
    """
    parent = os.getppid()
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0:
        if os.getppid() != parent:  # it ended while we were asking
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def mapped(function: Callable[..., T], *columns: Sequence[Any], processes: int, chunk: int) -> Iterator[T]:
    """What ``map`` gives, in its order, from processes that end with this one; from this one where ``processes`` is 1.

    Args:
        function: of one value of each column; it can be pickled.
        *columns: of equal length.
        processes: how many.
        chunk: calls that a process is handed at once.
    """
    if processes == 1:
        yield from map(function, *columns)
        return
    # "spawn": forking a process that already runs torch's threads (a notebook kernel) can dead-lock.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=end_with_parent) as pool:
        yield from pool.map(function, *columns, chunksize=chunk)


def allow_open_files() -> None:
    """Raise this process's limit of open files to what the system allows, for workers hand over files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65536)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses more than its kernel's own limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def write(text: str, stream: TextIO) -> None:
    """Write to stdout or stderr; when what reads it has gone (``| head``, ``2>&1 | head``), go on in silence."""
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Let a stream lead nowhere, or Python complains of a reader that has gone when this process ends."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived. A KeyboardInterrupt, because that is what asyncio lets through its event loop."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions inside the block, so that what we started is stopped in order.

    A SIGHUP that is ignored (``nohup``) stays ignored.
    """

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers[signal.SIGHUP] = terminate
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that are set inside the block and inherited by the kernel."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""Stop a training between two steps when the user or the cluster asks for it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A cluster signals every process of a job, and each passes it on: what arrives so soon again is the same request.
_SAME_REQUEST_SECONDS = 3.0


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped the training after a checkpoint was written; the run can be resumed.

    Attributes:
        signal_number: the signal: 2 (SIGINT, Ctrl-C or the notebook's stop button), 15 (SIGTERM, a preempted job) or
            1 (SIGHUP, a terminal that was closed).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: where the training stood is no news."""
        return [f"{type(self).__name__}: {self}"]


class Interruption:
    """Context manager that turns SIGINT, SIGTERM and SIGHUP into a request the loop honours at the end of its step.

    Ctrl-C again, seconds later, is a KeyboardInterrupt at once; further signals change nothing, and a SIGHUP that is
    ignored (``nohup``) stays so. Handlers are put back on leaving. Outside the main thread, where Python allows no
    handlers, nothing is installed and nothing is ever requested.

    Args:
        forward: called with the number of the first signal, to pass it on to processes that train for this one.
    """

    def __init__(self, forward: Callable[[int], object] | None = None) -> None:
        self.signal_number: int | None = None
        self._forward = forward
        self._process = os.getpid()
        self._before: dict[int, object] = {}
        self._at_once: str | None = None
        self._since = 0.0

    @property
    def requested(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self.signal_number is not None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: a handler that was not installed from Python cannot be put back
                signal.signal(number, handler)

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """While the body runs (an evaluation, everything being saved), a signal raises TrainingInterrupted at once."""
        if self.signal_number is not None:
            raise TrainingInterrupted(message, self.signal_number)
        self._at_once = message
        try:
            yield
        finally:
            self._at_once = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data-loading worker: its parent decides, and stops it when done
            return
        if self.signal_number is not None:
            if number == signal.SIGINT and time.monotonic() - self._since > _SAME_REQUEST_SECONDS:
                raise KeyboardInterrupt
            return
        self.signal_number, self._since = number, time.monotonic()
        if self._forward is not None:
            self._forward(number)
        if self._at_once is not None:
            raise TrainingInterrupted(self._at_once, number)


def run_beside(command: Sequence[str]) -> None:
    """Run a training as a process beside this one, print what it prints, and pass signals on to it.

    It has a session of its own: Jupyter signals the kernel's, and this process is to wait for a checkpoint.

    Raises:
        TrainingInterrupted: a signal came and was passed on, and the training has ended.
        RuntimeError: it ended with an error.
    """
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process,
        Interruption(forward=lambda number: process.send_signal(signal.SIGTERM)) as interruption,
    ):
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
        except BaseException:
            process.kill()
            raise
    if process.returncode and interruption.requested:
        raise TrainingInterrupted("training was interrupted; what it printed is above", interruption.signal_number)
    if process.returncode:
        raise RuntimeError(
            f"the training's processes ended with exit code {process.returncode}; what they printed is above. "
            "Run it again to go on from the last checkpoint"
        )

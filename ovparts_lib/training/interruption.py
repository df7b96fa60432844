"""Stop a training between two steps when the user or the cluster asks for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped the training after a checkpoint was written; the run can be resumed.

    Attributes:
        signal_number: the signal, 2 (SIGINT, Ctrl-C or the notebook's stop button) or 15 (SIGTERM, a preempted job).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Context manager that turns SIGINT and SIGTERM into a request the loop honours at the end of its step.

    A second signal goes to the handlers that were there before. Handlers are put back on leaving. Outside the main
    thread, where Python allows no handlers, nothing is installed and nothing is ever requested.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._process = os.getpid()
        self._before: dict[int, object] = {}
        self._at_once: str | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self.signal_number is not None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._put_back()

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
        self.signal_number = number
        self._put_back()
        if self._at_once is not None:
            raise TrainingInterrupted(self._at_once, number)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: a handler that was not installed from Python cannot be put back
                signal.signal(number, handler)
        self._before = {}

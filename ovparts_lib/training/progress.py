"""How a training is watched: a progress bar where somebody looks, plain lines in a batch log."""

import sys
import time
from datetime import timedelta
from typing import Any

from tqdm.auto import tqdm

from ovparts_lib.progress_bar import is_attended


class Progress:
    """Shows step, loss, learning rate, images per second and the time left.

    Args:
        iterations: steps of the whole run.
        step: steps done when this process started.
        shown: False for silence (other ranks, tests).
    """

    def __init__(self, iterations: int, step: int, *, shown: bool = True) -> None:
        self._iterations, self._shown, self._lines = iterations, shown, shown and not is_attended()
        silent = self._lines or not shown
        self._bar = tqdm(
            total=iterations, initial=step, desc="training", unit="step", dynamic_ncols=True, disable=silent
        )
        if step:
            self.say(f"resuming at step {step} of {iterations}")

    def advance(self) -> None:
        """One more step is done."""
        self._bar.update()

    def report(self, entry: dict[str, Any], seconds_left: float) -> None:
        """Show a log entry of a training step; the bar keeps its own estimate of the time left."""
        shown = {
            "loss": f"{entry['loss']:.4g}",
            "lr": f"{entry['learning_rate']:.3g}",
            "images/s": f"{entry['images_per_second']:.1f}",
        }
        self._bar.set_postfix(shown)
        if self._lines:
            facts = "  ".join(f"{name} {value}" for name, value in shown.items())
            left = timedelta(seconds=round(seconds_left))
            print(f"step {entry['step']}/{self._iterations}  {facts}  time left {left}", flush=True)

    def say(self, message: str) -> None:
        """Show a line beside the bar or among the lines."""
        if self._shown:
            self._bar.write(message)
            sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class Pace:
    """Measures how fast training goes, without the time of evaluations and checkpoints.

    Args:
        seconds: wall time the run has taken in earlier processes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._began = time.perf_counter() - seconds
        self._step_began = self._began
        self._busy, self._images, self._steps = 0.0, 0, 0

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, everything included."""
        return time.perf_counter() - self._began

    def start_step(self) -> None:
        """A step begins."""
        self._step_began = time.perf_counter()

    def end_step(self, images: int) -> None:
        """The step is done; it saw this many images, on all ranks together."""
        self._busy += time.perf_counter() - self._step_began
        self._images += images
        self._steps += 1

    def read(self) -> tuple[float, float]:
        """Images per second and seconds per step since the last call, or the beginning."""
        pace = self._images / self._busy, self._busy / self._steps
        self._busy, self._images, self._steps = 0.0, 0, 0
        return pace

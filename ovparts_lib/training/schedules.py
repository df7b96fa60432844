"""Learning-rate schedules as plain functions of the step, so that a resumed run needs no scheduler state."""

import math
from collections.abc import Callable

# detectron2's WARMUP_FACTOR: the fraction of the scheduled rate that the very first step of a warm-up uses.
WARMUP_START = 1e-6


def linear_warmup(step: int, warmup: int, start: float = WARMUP_START) -> float:
    """Factor that rises linearly from ``start`` at step 0 to 1 at step ``warmup`` and stays there.

    Source: detectron2 ``_get_warmup_factor_at_iter`` with method ``linear`` (used by OVSeg and SCAN).
    """
    if step >= warmup:
        return 1.0
    return start * (1 - step / warmup) + step / warmup


def poly(step: int, iterations: int, power: float) -> float:
    """``(1 - step / iterations)^power``: 1 at step 0, 0 after the last step (DeepLab; OV-PARTS with power 0.9)."""
    return (1 - step / iterations) ** power


def cosine(step: int, iterations: int, power: float) -> float:
    """``(1 + cos(π step / iterations)) / 2``: 1 at step 0, 0 after the last step (CAT-Seg); ``power`` has no effect."""
    return 0.5 * (1 + math.cos(math.pi * step / iterations))


SCHEDULES: dict[str, Callable[[int, int, float], float]] = {"poly": poly, "cosine": cosine}


def learning_rate_factor(
    step: int, iterations: int, *, schedule: str = "poly", power: float = 0.9, warmup: int = 0
) -> float:
    """The multiple of its base learning rate that every parameter group uses for one step.

    Args:
        step: steps already done, 0 … iterations - 1.
        iterations: length of the run in steps.
        schedule: a name in ``SCHEDULES``.
        power: exponent of the poly schedule.
        warmup: steps of linear warm-up, multiplied onto the schedule (not shifting it).
    """
    return linear_warmup(step, warmup) * SCHEDULES[schedule](step, iterations, power)

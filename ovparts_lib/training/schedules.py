"""Learning-rate schedules as plain functions of the step, so that a resumed run needs no scheduler state."""

import math
from typing import Literal

# detectron2's WARMUP_FACTOR: the fraction of the scheduled rate that the very first step of a warm-up uses.
WARMUP_START = 1e-6


def linear_warmup(step: int, warmup: int, start: float = WARMUP_START) -> float:
    """Factor that rises linearly from ``start`` at step 0 to 1 at step ``warmup`` and stays there.

    Source: detectron2 ``_get_warmup_factor_at_iter`` with method ``linear`` (used by OVSeg and SCAN).
    """
    if step >= warmup:
        return 1.0
    return start * (1 - step / warmup) + step / warmup


def learning_rate_factor(
    step: int, iterations: int, *, schedule: Literal["poly", "cosine"] = "poly", power: float = 0.9, warmup: int = 0
) -> float:
    """The multiple of its base learning rate that every parameter group uses for one step.

    Args:
        step: steps already done, 0 … iterations - 1.
        iterations: length of the run in steps.
        schedule: both are 1 at step 0 and 0 after the last step: ``poly``, ``(1 - step / iterations)^power`` (DeepLab;
            OV-PARTS with power 0.9), or ``cosine``, ``(1 + cos(π step / iterations)) / 2`` (CAT-Seg).
        power: exponent of the poly schedule.
        warmup: steps of linear warm-up, multiplied onto the schedule (not shifting it).
    """
    factors = {"poly": (1 - step / iterations) ** power, "cosine": 0.5 * (1 + math.cos(math.pi * step / iterations))}
    return linear_warmup(step, warmup) * factors[schedule]

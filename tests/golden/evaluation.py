"""What each ``released_<system>.py`` gives as ``recorded_evaluation()``: a prediction, on any device, and its record.

A new system whose folder of recordings has such a file is compared by ``benchmarks/gpu_check.py`` like the others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from tests.golden.fill import image


@dataclass(frozen=True)
class RecordedEvaluation:
    """A recorded prediction.

    Attributes:
        model: with the recordings' weights, on the CPU.
        predict: gives the recorded values, in the recording's sampling, from the model on whatever device it is.
        expected: what the reference gave.
    """

    model: nn.Module
    predict: Callable[[], Tensor]
    expected: ArrayLike


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def with_background(scores):
    """Logits of the classes and, last, of the background."""
    return torch.cat([scores.logits, scores.background[None]])

"""Behaviour of the released code that a dataset reproduces only when asked to by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, TypeVar

from ovparts_lib.data.records import DatasetError

EmptySamples = Literal["skip", "replace_as_released"]

Sample = TypeVar("Sample")


class ReleasedReplacement:
    """Serve a random other sample in place of one without parts, as detectron2's ``MapDataset`` does.

    The stand-in is drawn from the samples not yet known to be empty, by a generator of its own with seed 42. What is
    served thus depends on everything served before, and in a data loader on the number of workers.

    Args:
        length: number of samples.
    """

    def __init__(self, length: int) -> None:
        self._random = random.Random(42)
        self._candidates = set(range(length))

    def serve(self, index: int, make: Callable[[int], Sample | None]) -> Sample:
        """``make(index)``, or ``make`` of a random candidate for as long as that gives None.

        Raises:
            DatasetError: every sample is empty.
        """
        while (sample := make(index)) is None:
            self._candidates.discard(index)
            if not self._candidates:
                raise DatasetError("no sample of the split has a part label")
            # A set iterates in the reference's order only if it is filled and emptied in the reference's way.
            index = self._random.sample(list(self._candidates), k=1)[0]
        self._candidates.add(index)
        return sample

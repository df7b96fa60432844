"""Counts kept image by image, sparsely: what bootstrap intervals and per-image rates are computed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Confusion counts of each image, only those that are not zero.

    Attributes:
        images: number of images.
        classes: N; prediction and target are 0..N, and N stands for background.
        index: int32 (3, k): image, prediction, target of each entry.
        pixels: int64 (k,): how many.
    """

    images: int
    classes: int
    index: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of_matrix(cls, matrix: np.ndarray) -> Self:
        """A single matrix, int64 (N+1, N+1), as if it were one image."""
        prediction, target = np.nonzero(matrix)
        index = np.stack([np.zeros_like(prediction), prediction, target]).astype(np.int32)
        return cls(1, matrix.shape[0] - 1, index, matrix[prediction, target].astype(np.int64))

    def __add__(self, other: Self) -> Self:
        """Counts of these images, then of the others."""
        index = np.concatenate([self.index, other.index + np.array([[self.images], [0], [0]], np.int32)], axis=1)
        return ImageCounts(self.images + other.images, self.classes, index, np.concatenate([self.pixels, other.pixels]))

    def matrix(self) -> np.ndarray:
        """The sum over images, int64 (N+1, N+1)."""
        total = np.zeros((self.classes + 1, self.classes + 1), np.int64)
        np.add.at(total, (self.index[1], self.index[2]), self.pixels)
        return total


@dataclass(frozen=True, eq=False)
class Tally:
    """Pixels per class: all that class figures are made from. Leading dimensions are images or bootstrap samples.

    Attributes:
        right: float64 (..., K), labelled c and predicted c.
        labelled: float64 (..., K), labelled c.
        predicted: float64 (..., K), predicted c.
        fathers: int64 (2, p), pairs of a class and a class that it is a kind of; none where right is right.
        as_father: float64 (..., p), labelled as the first of a pair and predicted as the second.
    """

    right: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray
    fathers: np.ndarray
    as_father: np.ndarray

    @property
    def union(self) -> np.ndarray:
        """Labelled or predicted c."""
        return self.labelled + self.predicted - self.right

    @property
    def credited(self) -> np.ndarray:
        """What counts as right, float64 (..., K): SG-IoU credits pixels predicted as a father of their class.

        They are weighted by the precision of that prediction taken as "the father, or this child".
        """
        child, father = self.fathers
        precise = self.as_father + self.right[..., father]
        share = precise / np.maximum(self.predicted[..., father], 1)
        credited = self.right.copy()
        np.add.at(credited, (..., child), share * self.as_father)
        return credited

    def weighted(self, weights: np.ndarray) -> Self:
        """Sums over images with weights (samples, images): a tally of each sample. Exact for whole-number weights."""
        return self._of_counts(lambda counts: weights @ counts)

    def total(self) -> Self:
        """The sum over the first dimension."""
        return self._of_counts(lambda counts: counts.sum(0))

    def ordered(self, order: np.ndarray) -> Self:
        """The images in another order."""
        return self._of_counts(lambda counts: counts[order])

    def _of_counts(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        counts = map(change, (self.right, self.labelled, self.predicted))
        return Tally(*counts, self.fathers, change(self.as_father))


def tally(
    counts: ImageCounts,
    *,
    background: str,
    predicted_background: bool,
    charged: ImageCounts | None = None,
    fathers: Sequence[tuple[int, int]] = (),
) -> Tally:
    """Pixels per class and image, as a protocol sees them.

    Args:
        counts: of each image.
        background: what index N is: ``excluded``, no class and its column ignored; ``column_dropped``, a class that is
            predicted but never labelled; ``forced``, a class that is right on every unlabelled pixel, whatever was
            predicted there; ``counted``, a class like any other.
        predicted_background: whether labelled pixels predicted as background count (as missed); otherwise they do not
            exist.
        charged: predictions on known background (target N), whose parts are counted as predicted.
        fathers: pairs of a class and a class that it is a kind of.

    Returns:
        (images, N), or (images, N+1) where index N is a class.
    """
    (image, prediction, target), pixels, classes = counts.index.astype(np.int64), counts.pixels, counts.classes
    if background == "forced":
        prediction = np.where(target == classes, classes, prediction)
    kept = np.ones(len(pixels), bool)
    if background in ("excluded", "column_dropped"):
        kept &= target < classes
    if not predicted_background:
        kept &= prediction < classes
    size = classes if background == "excluded" else classes + 1

    def summed(chosen: np.ndarray, labels: np.ndarray) -> np.ndarray:
        places, amounts = image[chosen] * size + labels[chosen], pixels[chosen]
        return np.bincount(places, amounts, counts.images * size).reshape(counts.images, size)

    labelled = summed(kept & (target < size), target)
    predicted = summed(kept & (prediction < size), prediction)
    right = summed(kept & (prediction == target) & (target < size), target)
    if charged is not None:
        parts = charged.index[1] < classes
        np.add.at(predicted, (charged.index[0][parts], charged.index[1][parts]), charged.pixels[parts])
    pairs = np.array(fathers, np.int64).reshape(-1, 2).T
    place = np.full((classes + 1, classes + 1), -1)
    place[pairs[1], pairs[0]] = np.arange(pairs.shape[1])
    pair = place[prediction, target]
    chosen = pair >= 0
    places = image[chosen] * pairs.shape[1] + pair[chosen]
    as_father = np.bincount(places, pixels[chosen], counts.images * pairs.shape[1])
    return Tally(right, labelled, predicted, pairs, as_father.reshape(counts.images, pairs.shape[1]))

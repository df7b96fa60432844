"""Class figures and group means from tallies: the arithmetic that protocols choose from.

Notation as in the literature: tp_c right, G_c labelled, P_c predicted pixels of class c; IoU_c = tp / (G + P - tp). All
functions work along the last dimension, so that a thousand bootstrap samples are read as fast as one table.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ovparts_lib.evaluation.per_image import Tally

Averaged = Literal["occurring", "occurring_or_predicted", "found"]
"""Which classes of a group its mean is over.

``occurring``: those with labelled pixels; a missed one counts 0.
``occurring_or_predicted``: also those only predicted, which count 0.
``found``: those with an IoU above 0, so that a class which is missed altogether leaves the mean (part-catseg).
"""


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 · part / whole, NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, 100 * part / np.where(whole > 0, whole, 1), np.nan)


def averaged_classes(counts: Tally, averaged: Averaged) -> np.ndarray:
    """Which classes enter a mean: bool (..., K)."""
    if averaged == "found":
        return counts.right > 0
    return counts.labelled > 0 if averaged == "occurring" else counts.union > 0


def mean_over(values: np.ndarray, chosen: np.ndarray, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the chosen classes among ``ids`` (an undefined value counts 0), and how many were averaged.

    Returns:
        float64 (...), NaN where there is none to average; int64 (...).
    """
    ids = np.asarray(ids, dtype=np.int64)
    chosen, values = chosen[..., ids], np.nan_to_num(values[..., ids])
    number, total = chosen.sum(-1), np.where(chosen, values, 0.0).sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, total / np.maximum(number, 1), np.nan), number


def harmonic(seen: np.ndarray | float, unseen: np.ndarray | float) -> np.ndarray:
    """2ab / (a + b); NaN if either is NaN or both are 0."""
    seen, unseen = np.asarray(seen, np.float64), np.asarray(unseen, np.float64)
    total = seen + unseen
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 2 * seen * unseen / np.where(total > 0, total, 1), np.nan)


def frequency_weighted(counts: Tally) -> np.ndarray:
    """IoU over all classes, weighted with their share of the labelled pixels; (...), in percent."""
    iou = np.nan_to_num(ratio(counts.credited, counts.union))
    return ratio((iou * counts.labelled).sum(-1), counts.labelled.sum(-1)) / 100


def group_figures(counts: Tally, ids: Sequence[int], averaged: Averaged) -> dict[str, np.ndarray]:
    """IoU, recall (class accuracy) and pixel accuracy of a group of classes, with the number averaged.

    Where only ``found`` classes are averaged (part-catseg), that holds for the recall too, and the pixel accuracy is
    the mean recall rather than pixels over pixels.

    Args:
        counts: the tally.
        ids: the group's classes.
        averaged: over which of them.
    """
    ids, found = np.asarray(ids, dtype=np.int64), averaged == "found"
    credited = counts.credited
    iou, recall = ratio(credited, counts.union), ratio(credited, counts.labelled)
    mean, number = mean_over(iou, averaged_classes(counts, averaged), ids)
    mean_recall, recalled = mean_over(recall, averaged_classes(counts, "found" if found else "occurring"), ids)
    pixels = ratio(credited[..., ids].sum(-1), counts.labelled[..., ids].sum(-1))
    return {
        "IoU": mean,
        "classes": number,
        "recall": mean_recall,
        "recall_classes": recalled,
        "pixel_accuracy": mean_recall if found else pixels,
    }

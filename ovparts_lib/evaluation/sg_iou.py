"""SG-IoU: semantics-guided IoU, which forgives a prediction that names a broader class of the same thing.

In long class lists some classes contain others ("chair", "seat"), so that a right answer may count as wrong. A table
names the fathers of each class, its hypernyms and synonyms. Pixels predicted as a father count for the class, weighted
by the precision of that prediction taken as "the father, or this child": to predict the hypernym everywhere does not
pay. Fathers are not followed further up, and are mutual only where the table says so both ways.
Source: Liu et al., SCAN (CVPR 2024), released code. Of its tables only ADE20K-847's is active there; eleven keys of it
occur twice, and the later entry counts. Some entries look wrong (PC-459's "basket" has the father "ball"); they are
kept, for comparability.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

Fathers = Mapping[int, Sequence[int]]  # ids of a class's fathers by its own id


@dataclass(frozen=True)
class SgIou:
    """Vanilla IoU and SG-IoU of one confusion matrix.

    Attributes:
        summary: in percent, ``vanilla`` and ``sg_iou`` by ``mIoU``, ``fwIoU``, ``mACC``, ``pACC``. Means of IoU are
            over classes labelled or predicted, one that is only predicted counting 0; mACC is over labelled ones.
        classes: one row per class in label order: ``IoU``, ``SG_IoU`` in percent, NaN for classes without labelled
            pixels; ``gain``, their difference.
    """

    summary: dict[str, dict[str, float]]
    classes: pd.DataFrame


@cache
def load_fathers(vocabulary: str) -> dict[int, tuple[int, ...]]:
    """The released table of a class list; empty for lists without one, where SG-IoU is the vanilla IoU.

    Args:
        vocabulary: ``ade20k_150``, ``ade20k_847`` and ``pascal_context_459`` have one.
    """
    text = resources.files(__package__).joinpath("sg_iou_fathers.json").read_text(encoding="utf-8")
    table = json.loads(text).get(vocabulary, {})
    return {int(child): tuple(fathers) for child, fathers in table.items()}


def sg_iou(counts: np.ndarray, classes: Sequence[str], fathers: Fathers) -> SgIou:
    """Both metrics of a confusion matrix.

    Args:
        counts: int64 (K + 1, K + 1), rows are predictions and columns ground truth; index K is nothing. Unlabelled
            pixels, the last column, do not count; labelled pixels predicted as nothing are missed.
        classes: the K names.
        fathers: see :func:`load_fathers`.

    Raises:
        ValueError: a matrix of another shape or type, or a table that names classes there are none of, or a class as
            its own father.
    """
    count = len(classes)
    if counts.shape != (count + 1, count + 1) or counts.dtype != np.int64:
        raise ValueError(
            f"counts of {count} classes must be int64 of shape {(count + 1, count + 1)}, not {counts.dtype} of "
            f"{counts.shape}"
        )
    wrong = [child for child, names in fathers.items() if not {child, *names} <= set(range(count)) or child in names]
    if wrong:
        raise ValueError(f"the fathers of class {wrong[0]} are not other classes of 0 to {count - 1}")
    pixels = counts[:, :count]
    labelled, predicted, right = pixels.sum(0), pixels[:count].sum(1), np.diagonal(pixels[:count])
    forgiven = right + np.array([_from_fathers(pixels, predicted, c, fathers.get(c, ())) for c in range(count)])
    union = labelled + predicted - right
    summary, columns = {}, {}
    for name, true in (("vanilla", right), ("sg_iou", forgiven)):
        summary[name], columns[name] = _figures(true, union, labelled)
    table = pd.DataFrame({"IoU": columns["vanilla"], "SG_IoU": columns["sg_iou"]}, index=pd.Index(classes))
    return SgIou(summary, table.assign(gain=table["SG_IoU"] - table["IoU"]))


def _from_fathers(pixels: np.ndarray, predicted: np.ndarray, child: int, fathers: Sequence[int]) -> float:
    """Pixels of a class that are predicted as its fathers, each weighted by the father's precision with this child."""
    total = 0.0
    for father in fathers:
        if predicted[father]:
            precision = (pixels[father, child] + pixels[father, father]) / predicted[father]
            total += precision * pixels[father, child]
    return total


def _figures(right: np.ndarray, union: np.ndarray, labelled: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Means, and the IoU of each class, in percent."""
    occurs = labelled > 0
    if not occurs.any():
        return dict.fromkeys(("mIoU", "fwIoU", "mACC", "pACC"), float("nan")), np.full(len(right), np.nan)
    iou, accuracy = right[occurs] / union[occurs], right[occurs] / labelled[occurs]
    share = labelled[occurs] / labelled.sum()
    by_class = np.full(len(right), np.nan)
    by_class[occurs] = 100 * iou
    figures = {
        "mIoU": iou.sum() / (union > 0).sum(),
        "fwIoU": (iou * share).sum(),
        "mACC": accuracy.mean(),
        "pACC": (accuracy * share).sum(),
    }
    return {name: 100 * float(value) for name, value in figures.items()}, by_class

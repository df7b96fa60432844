"""Protocols: published and sound ways of turning one stored confusion matrix into figures.

Each is a function of the matrix alone, so that a run can be read under any of them afterwards. Notation as in the
literature: C[p, g] pixels predicted p with label g; tp_c = C[c, c]; G_c labelled, P_c predicted pixels of class c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ovparts_lib.evaluation.confusion import ConfusionMatrix
from ovparts_lib.evaluation.evaluator import MODES, Evaluation
from ovparts_lib.vocabularies.vocabulary import Vocabulary


class UnsupportedModeError(ValueError):
    """A protocol is not defined for a mode, or the evaluation did not score it; the message says which are."""


@dataclass(frozen=True)
class ProtocolResult:
    """One confusion matrix read under one protocol.

    Attributes:
        protocol: name of the protocol.
        version: changes whenever the protocol's figures would.
        mode: the mode of the matrix, such as ``oracle_obj``.
        vocabulary: the vocabulary's name.
        vocabulary_hash: the vocabulary's hash.
        summary: figures in percent, NaN where a group is empty: ``mIoU``, ``seen``, ``unseen`` (group means),
            ``harmonic`` (of the two); ``classes``, ``classes_seen``, ``classes_unseen`` (how many were averaged);
            further figures as the protocol defines them.
        classes: one row per part in label order: ``IoU``, ``recall``, ``precision`` in percent (NaN where undefined),
            ``pixels`` (labelled), ``predicted_pixels``, ``predicted_only`` (predicted, but absent from the labels).
        counts: records and images behind the matrix, empty when the matrix was scored without its evaluation.
    """

    protocol: str
    version: str
    mode: str
    vocabulary: str
    vocabulary_hash: str
    summary: dict[str, float]
    classes: pd.DataFrame
    counts: dict[str, int]


Figures = tuple[dict[str, float], pd.DataFrame]


@dataclass(frozen=True)
class Protocol:
    """A named, versioned way of reading confusion matrices; call it with an evaluation and a mode.

    Attributes:
        name: as in tables and parameters.
        version: changes whenever its figures would.
        modes: the modes it is defined for.
        description: one sentence for readers of a table.
        figures: (int64 matrix (N+1, N+1), vocabulary, mode) -> summary and class table.
    """

    name: str
    version: str
    modes: tuple[str, ...]
    description: str
    figures: Callable[[np.ndarray, Vocabulary, str], Figures]

    def __call__(self, evaluation: Evaluation, mode: str) -> ProtocolResult:
        """Read one mode of an evaluation.

        Raises:
            UnsupportedModeError: the protocol is not defined for the mode, or the evaluation lacks it.
        """
        if mode not in evaluation.matrices:
            raise UnsupportedModeError(f"the evaluation has no mode {mode!r}; it has {', '.join(evaluation.modes)}")
        counts = {
            "records": evaluation.records,
            "skipped_records": evaluation.skipped_records,
            "images": evaluation.images,
            "dataset_images": evaluation.dataset_images,
        }
        return self.read(evaluation.matrices[mode], evaluation.vocabulary, mode, counts)

    def read(
        self,
        matrix: ConfusionMatrix | np.ndarray,
        vocabulary: Vocabulary,
        mode: str,
        counts: dict[str, int] | None = None,
    ) -> ProtocolResult:
        """Read a matrix that stands alone.

        Raises:
            UnsupportedModeError: the protocol is not defined for the mode.
            ValueError: matrix and vocabulary are of different sizes.
        """
        if mode not in self.modes:
            raise UnsupportedModeError(
                f"the protocol {self.name!r} is not defined for the mode {mode!r}, only for {', '.join(self.modes)}"
            )
        array = matrix.numpy() if isinstance(matrix, ConfusionMatrix) else np.asarray(matrix)
        side = len(vocabulary.parts) + 1
        if array.shape != (side, side):
            raise ValueError(
                f"a matrix of {len(vocabulary.parts)} parts must be {(side, side)}, this one is {array.shape}"
            )
        summary, classes = self.figures(array, vocabulary, mode)
        return ProtocolResult(
            self.name, self.version, mode, vocabulary.name, vocabulary.hash, summary, classes, counts or {}
        )


def harmonic_mean(seen: float, unseen: float) -> float:
    """2ab / (a + b); NaN if either is NaN or both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else math.nan


def class_frame(matrix: np.ndarray) -> pd.DataFrame:
    """Per-class figures from a matrix whose rows all count as predictions and whose columns 0..N-1 count as labels.

    Args:
        matrix: counts (R, N) with R >= N; rows past N-1 are predictions of none of the classes.

    Returns:
        The columns of :attr:`ProtocolResult.classes`. IoU and recall are NaN for classes without labelled pixels,
        precision for classes never predicted.
    """
    classes = matrix.shape[1]
    right = np.diagonal(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(axis=0), matrix[:classes].sum(axis=1)
    occurs = labelled > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.DataFrame(
            {
                "IoU": np.where(occurs, 100 * right / (labelled + predicted - right), np.nan),
                "recall": np.where(occurs, 100 * right / labelled, np.nan),
                "precision": np.where(predicted > 0, 100 * right / predicted, np.nan),
                "pixels": labelled,
                "predicted_pixels": predicted,
                "predicted_only": (predicted > 0) & ~occurs,
            }
        )


def _recommended(matrix: np.ndarray, vocabulary: Vocabulary, mode: str) -> Figures:
    classes = class_frame(matrix[:, : len(vocabulary.parts)])
    occurs = (classes["pixels"] > 0).to_numpy()
    summary = _group_means(classes, vocabulary, occurs, occurs)
    recall = _group_means(classes, vocabulary, occurs, occurs, "recall")
    summary |= _pixel_figures(classes)
    summary |= {"recall": recall["mIoU"], "recall_seen": recall["seen"], "recall_unseen": recall["unseen"]}
    summary["predicted_only"] = int(classes["predicted_only"].sum())
    return summary, classes


def _ov_parts(matrix: np.ndarray, vocabulary: Vocabulary, mode: str) -> Figures:
    count = len(vocabulary.parts)
    classes = class_frame(matrix[:count, :count])
    occurs = (classes["pixels"] > 0).to_numpy()
    averaged = occurs | (classes["predicted_pixels"] > 0).to_numpy()
    summary = _group_means(classes, vocabulary, occurs, averaged)
    summary |= _pixel_figures(classes)
    summary["predicted_only"] = int(classes["predicted_only"].sum())
    return summary, classes


def _group_means(
    classes: pd.DataFrame, vocabulary: Vocabulary, occurs: np.ndarray, averaged: np.ndarray, column: str = "IoU"
) -> dict[str, float]:
    """Sums over classes that occur, divided by the number of classes averaged (others of those count 0)."""
    everything, values = range(len(classes)), classes[column].to_numpy()

    def mean(ids: Sequence[int]) -> tuple[float, int]:
        ids = np.asarray(ids, dtype=np.int64)
        number = int(averaged[ids].sum())
        return (float(values[ids][occurs[ids]].sum() / number) if number else math.nan), number

    overall, count = mean(everything)
    seen, count_seen = mean(vocabulary.seen_part_ids)
    unseen, count_unseen = mean(vocabulary.unseen_part_ids)
    return {
        "mIoU": overall,
        "seen": seen,
        "unseen": unseen,
        "harmonic": harmonic_mean(seen, unseen),
        "classes": count,
        "classes_seen": count_seen,
        "classes_unseen": count_unseen,
    }


def _pixel_figures(classes: pd.DataFrame) -> dict[str, float]:
    """Share of labelled pixels that are right, and IoU weighted by labelled pixels; NaN without labels."""
    pixels, total = classes["pixels"].to_numpy(), int(classes["pixels"].sum())
    if not total:
        return {"pixel_accuracy": math.nan, "fwIoU": math.nan}
    weights = pixels / total
    return {
        "pixel_accuracy": float(np.nansum(weights * classes["recall"])),
        "fwIoU": float(np.nansum(weights * classes["IoU"])),
    }


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="recommended",
            version="1",
            modes=MODES,
            description=(
                "Labelled part pixels; mean over the classes of a group that occur in the ground truth, a missed class "
                "counts 0; a background prediction on a labelled pixel is an error; classes that are predicted but do "
                "not occur are counted apart; background is never averaged."
            ),
            figures=_recommended,
        ),
        Protocol(
            name="ov_parts",
            version="1",
            modes=("oracle_obj",),
            description=(
                "OV-PARTS (GeneralizedSemSegEvaluator): labelled part pixels; classes that are predicted but do not "
                "occur enter the means as 0. Its pred-obj evaluation was not released."
            ),
            figures=_ov_parts,
        ),
    )
}


def recommended(matrix: ConfusionMatrix | np.ndarray, vocabulary: Vocabulary, mode: str) -> ProtocolResult:
    """The recommended protocol: every class that occurs counts, nothing else does. See ``PROTOCOLS["recommended"]``."""
    return PROTOCOLS["recommended"].read(matrix, vocabulary, mode)


def ov_parts(matrix: ConfusionMatrix | np.ndarray, vocabulary: Vocabulary, mode: str) -> ProtocolResult:
    """The metric of OV-PARTS (NeurIPS 2023), as its released evaluator computes it. See ``PROTOCOLS["ov_parts"]``."""
    return PROTOCOLS["ov_parts"].read(matrix, vocabulary, mode)


def score_all(evaluation: Evaluation, protocols: Sequence[str] = tuple(PROTOCOLS)) -> list[ProtocolResult]:
    """Every mode of an evaluation under every named protocol that is defined for it.

    Raises:
        ValueError: a protocol that does not exist.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise ValueError(f"no protocol called {unknown[0]!r}; there are {', '.join(PROTOCOLS)}")
    return [
        PROTOCOLS[name](evaluation, mode)
        for name in protocols
        for mode in evaluation.modes
        if mode in PROTOCOLS[name].modes
    ]

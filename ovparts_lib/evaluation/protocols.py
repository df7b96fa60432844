"""Protocols: published and sound ways of turning stored counts into figures.

Each is a function of the counts alone, so that a run can be read under any of them afterwards; what each counts and
how it departs from ours stands in ``protocols.json``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

import numpy as np
import pandas as pd

from ovparts_lib.evaluation.metrics import Averaged, frequency_weighted, group_figures, harmonic, mean_over, ratio
from ovparts_lib.evaluation.per_image import ImageCounts, Tally, tally
from ovparts_lib.evaluation.sg_iou import load_fathers
from ovparts_lib.evaluation.stored import DEFAULT_OPTIONS, Evaluation
from ovparts_lib.vocabularies.vocabulary import Vocabulary

Background = Literal["excluded", "column_dropped", "forced", "counted"]
BoundaryRule = Literal[
    "none", "own_mask", "label_difference", "label_difference_with_background", "label_difference_8_bit"
]
COUNTED = ("records", "skipped_records", "images", "dataset_images")


class UnsupportedModeError(ValueError):
    """A protocol is not defined for a mode or level, or the evaluation did not score it; the message says which are."""


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
            ``recall`` (mean over classes), ``recall_seen``, ``recall_unseen``, ``recall_harmonic``;
            ``pixel_accuracy``, ``pixel_accuracy_seen``, ``pixel_accuracy_unseen``; ``fwIoU``; ``predicted_only`` (how
            many classes are predicted but never labelled); ``background_IoU`` (NaN where the background is no class);
            ``boundary_IoU``, ``boundary_IoU_seen``, ``boundary_IoU_unseen``, ``boundary_IoU_harmonic``. How many
            classes the means of recall and of boundaries are over stands in ``recall_classes…``, ``boundary_classes…``.
        classes: one row per class in label order: ``IoU``, ``recall``, ``precision``, ``boundary_IoU`` in percent (NaN
            where undefined), ``pixels`` (labelled), ``predicted_pixels``, ``predicted_only`` (predicted, but absent
            from the labels).
        counts: records and images behind the matrix, empty when the matrix was scored without its evaluation.
        options: how scoring differed from the default.
    """

    protocol: str
    version: str
    mode: str
    vocabulary: str
    vocabulary_hash: str
    summary: dict[str, float]
    classes: pd.DataFrame
    counts: dict[str, int]
    options: str = DEFAULT_OPTIONS


@dataclass(frozen=True)
class Protocol:
    """A named, versioned way of reading confusion matrices; call it with an evaluation and a mode.

    Attributes:
        name: as in tables and parameters.
        version: changes whenever its figures would.
        modes: the modes it is defined for.
        description: a sentence for readers of a table.
        overall: the classes of the overall mean.
        groups: the classes of the seen and unseen means.
        level: ``parts`` or ``objects``.
        background: what index N is, see :func:`ovparts_lib.evaluation.per_image.tally`.
        predicted_background: whether labelled pixels predicted as background exist.
        only_predicted_iou: IoU in the class table of a class that is only predicted: 0, or NaN.
        charges_background: whether part predictions on known background are false positives.
        boundary: which boundary counts are read, and how.
        semantics_guided: whether pixels predicted as a father of their class are credited, see
            :mod:`ovparts_lib.evaluation.sg_iou`; for class lists that have a table of fathers.
        harmonic_of_zeros: the harmonic mean of two group means that are both 0: undefined, or 0 (ov-seg, which computes
            ``2 / (1 / a + 1 / b)`` with infinities in between).
        notes: its departures from ``recommended``, each with its ``rule`` in a few words and its ``explanation``, a
            sentence that can be cited; those about scoring hold where the evaluation was scored with the option of that
            name.
    """

    name: str
    version: str
    modes: tuple[str, ...]
    description: str
    overall: Averaged
    groups: Averaged
    level: str = "parts"
    background: Background = "excluded"
    predicted_background: bool = True
    only_predicted_iou: float = field(default=float("nan"))
    charges_background: bool = False
    semantics_guided: bool = False
    boundary: BoundaryRule = "none"
    harmonic_of_zeros: float = field(default=float("nan"))
    notes: tuple[Mapping[str, str], ...] = field(default=(), hash=False)

    def __call__(self, evaluation: Evaluation, mode: str) -> ProtocolResult:
        """Read one mode of an evaluation.

        Raises:
            UnsupportedModeError: the protocol is not defined for the mode or level, or the evaluation lacks what it
                reads.
        """
        self.check(evaluation, mode)
        vocabulary, classes = evaluation.vocabulary, len(evaluation.vocabulary.classes)
        total = self.tally(evaluation.per_image[mode], vocabulary, evaluation.background).total()
        summary = {key: float(value) for key, value in self.summary(total, vocabulary).items()}
        own_mask, released = evaluation.boundary.get(mode), evaluation.boundary_released.get(mode)
        boundary = self._boundary_classes(own_mask, released, classes)
        summary |= self._boundary_means(boundary, vocabulary)
        numbers = [key for key in summary if "classes" in key] + ["predicted_only"]
        summary |= {key: int(summary[key]) for key in numbers}
        return ProtocolResult(
            protocol=self.name,
            version=self.version,
            mode=mode,
            vocabulary=vocabulary.name,
            vocabulary_hash=vocabulary.hash,
            summary=summary,
            classes=self._class_frame(total, boundary[:classes]),
            counts={name: getattr(evaluation, name) for name in COUNTED},
            options=evaluation.options,
        )

    def check(self, evaluation: Evaluation, mode: str) -> None:
        """Raise UnsupportedModeError unless the evaluation can be read in this mode."""
        if problem := self.obstacle(evaluation, mode):
            raise UnsupportedModeError(problem)

    def obstacle(self, evaluation: Evaluation, mode: str) -> str:
        """Why the evaluation cannot be read in this mode; empty if it can."""
        if mode not in evaluation.per_image:
            return f"the evaluation has no mode {mode!r}; it has {', '.join(evaluation.modes)}"
        reason, vocabulary = "", evaluation.vocabulary.name
        if mode not in self.modes:
            reason = f"is not defined for the mode {mode!r}, only for {', '.join(self.modes)}"
        elif evaluation.level != self.level:
            reason = f"reads matrices of {self.level}, this evaluation is over {evaluation.level}"
        elif self.charges_background and evaluation.background is None:
            reason = "charges predictions on known background, which were not counted; evaluate with strict=True"
        elif self.semantics_guided and not load_fathers(vocabulary):
            reason = f"needs a table of fathers; the class list {vocabulary!r} has none"
        return reason and f"the protocol {self.name!r} {reason}"

    def tally(self, counts: ImageCounts, vocabulary: Vocabulary, charged: ImageCounts | None = None) -> Tally:
        """Pixels per image and class as the protocol sees them: (images, K)."""
        return tally(
            counts,
            background=self.background,
            predicted_background=self.predicted_background,
            charged=charged if self.charges_background else None,
            fathers=load_fathers(vocabulary.name) if self.semantics_guided else (),
        )

    def summary(self, counts: Tally, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        """Figures from tallies (..., K), each (...); those of boundaries are not among them."""
        classes = len(vocabulary.classes)
        groups = {"seen": vocabulary.seen_ids, "unseen": vocabulary.unseen_ids}
        overall = group_figures(counts, range(counts.right.shape[-1]), self.overall)
        figures = {"mIoU": overall.pop("IoU"), **overall, "fwIoU": frequency_weighted(counts)}
        for name, ids in groups.items():
            group = group_figures(counts, ids, self.groups)
            figures |= {name: group["IoU"], f"classes_{name}": group["classes"]}
            figures |= {f"{key}_{name}": group[key] for key in ("recall", "recall_classes", "pixel_accuracy")}
        both_zero = (figures["seen"] == 0) & (figures["unseen"] == 0)
        figures["harmonic"] = np.where(both_zero, self.harmonic_of_zeros, harmonic(figures["seen"], figures["unseen"]))
        figures["recall_harmonic"] = harmonic(figures["recall_seen"], figures["recall_unseen"])
        parts = slice(0, classes)
        figures["predicted_only"] = ((counts.labelled == 0) & (counts.predicted > 0))[..., parts].sum(-1)
        beyond = ratio(counts.right, counts.union)[..., classes:]
        figures["background_IoU"] = beyond[..., 0] if beyond.shape[-1] else np.full(figures["mIoU"].shape, np.nan)
        return figures

    def _class_frame(self, counts: Tally, boundary: np.ndarray) -> pd.DataFrame:
        size = len(boundary)
        right, labelled, predicted = (one[:size] for one in (counts.right, counts.labelled, counts.predicted))
        only_predicted, credited = (labelled == 0) & (predicted > 0), counts.credited[:size]
        iou = np.where(labelled > 0, ratio(credited, counts.union[:size]), np.nan)
        return pd.DataFrame(
            {
                "IoU": np.where(only_predicted, self.only_predicted_iou, iou),
                "recall": ratio(credited, labelled),
                "precision": ratio(right, predicted),
                "pixels": labelled.astype(np.int64),
                "predicted_pixels": predicted.astype(np.int64),
                "predicted_only": only_predicted,
                "boundary_IoU": boundary,
            }
        )

    def _boundary_classes(
        self, own_mask: np.ndarray | None, label_difference: np.ndarray | None, classes: int
    ) -> np.ndarray:
        """Boundary IoU of each class, and of the background last where that is one: NaN where there is none."""
        if self.boundary == "own_mask" and own_mask is not None:
            both, labelled, predicted = own_mask.astype(np.float64)
            return np.where(labelled > 0, ratio(both, labelled + predicted - both), np.nan)
        if self.boundary.startswith("label_difference") and label_difference is not None:
            wrapped, size = self.boundary.endswith("8_bit"), classes + self.boundary.endswith("with_background")
            matrix = wrapped_to_8_bits(label_difference) if wrapped else label_difference
            matrix = matrix[:size, :size].astype(np.float64)
            right = np.diagonal(matrix)
            return ratio(right, matrix.sum(0) + matrix.sum(1) - right)
        return np.full(classes, np.nan)

    def _boundary_means(self, boundary: np.ndarray, vocabulary: Vocabulary) -> dict[str, float]:
        # Of the released group means only those of boundaries hold the background, among the unseen.
        outside = range(len(vocabulary.classes), len(boundary))
        groups = {
            "": range(len(boundary)),
            "_seen": vocabulary.seen_ids,
            "_unseen": (*vocabulary.unseen_ids, *outside),
        }
        means = {}
        for name, ids in groups.items():
            mean, number = mean_over(boundary, ~np.isnan(boundary), ids)
            means |= {f"boundary_IoU{name}": float(mean), f"boundary_classes{name}": int(number)}
        means["boundary_IoU_harmonic"] = float(harmonic(means["boundary_IoU_seen"], means["boundary_IoU_unseen"]))
        return means


def wrapped_to_8_bits(matrix: np.ndarray) -> np.ndarray:
    """A confusion of boundary maps as detectron2 counts it: places prediction · (N+1) + target overflow at 256."""
    places = np.arange(matrix.size) % 256
    wrapped = np.zeros(matrix.size, matrix.dtype)
    np.add.at(wrapped, places, matrix.reshape(-1))
    return wrapped.reshape(matrix.shape)


def _read_protocols() -> dict[str, Protocol]:
    """The protocols of the file: fields of :class:`Protocol`, notes by their keys, ``{…}`` for shared sentences."""
    content = json.loads(resources.files(__package__).joinpath("protocols.json").read_text(encoding="utf-8"))
    protocols = {}
    for name, stated in content["protocols"].items():
        departures = tuple(content["notes"][key] for key in stated.pop("notes", ()))
        modes, description = tuple(stated.pop("modes")), stated.pop("description").format(**content["sentences"])
        protocols[name] = Protocol(name=name, modes=modes, description=description, notes=departures, **stated)
    return protocols


PROTOCOLS = _read_protocols()


def protocol_named(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol called {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def score_all(evaluation: Evaluation, protocols: Sequence[str] = tuple(PROTOCOLS)) -> list[ProtocolResult]:
    """Every mode of an evaluation under every named protocol that can read it.

    Raises:
        ValueError: a protocol that does not exist.
    """
    pairs = [(protocol, mode) for protocol in map(protocol_named, protocols) for mode in evaluation.modes]
    return [protocol(evaluation, mode) for protocol, mode in pairs if not protocol.obstacle(evaluation, mode)]

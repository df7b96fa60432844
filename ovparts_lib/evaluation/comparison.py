"""One evaluation under every protocol that can read it, and why the figures differ.

This is a comparison *of protocols*: its rows are not comparable with one another, which is the point of it. Tables of
results (:mod:`ovparts_lib.evaluation.tables`) never mix protocols.

All protocols read the same predictions. A protocol is a way of counting them, so what the released code does before it
counts is not in its figures unless the evaluation was scored with that option: here the known object restricts the
parts by its exact id, labels are those of the label files, and records without a part are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ovparts_lib.evaluation.comparison_scoring import scoring_departures
from ovparts_lib.evaluation.protocols import Protocol, ProtocolResult
from ovparts_lib.evaluation.registry import PROTOCOLS, protocol_named, score_all
from ovparts_lib.evaluation.stored import Evaluation

REFERENCE = "recommended"
FIGURES = (
    "mIoU", "seen", "unseen", "harmonic", "classes", "classes_seen", "classes_unseen", "recall", "recall_seen",
    "recall_unseen", "recall_harmonic", "pixel_accuracy", "pixel_accuracy_seen", "pixel_accuracy_unseen",
    "fwIoU", "predicted_only", "nothing_IoU", "boundary_IoU",
    "boundary_IoU_seen", "boundary_IoU_unseen", "boundary_IoU_harmonic",
)  # fmt: skip
_DIFFERENCES = (
    "mode", "protocol", "version", "rule", "explanation", "concerns", "records", "images", "vocabulary_hash", "options",
)  # fmt: skip


def protocol_comparison(evaluation: Evaluation, protocols: Sequence[str] = tuple(PROTOCOLS)) -> pd.DataFrame:
    """Every figure of every mode under every applicable protocol.

    Returns:
        Long: mode, protocol, version, figure, value, difference (from ``recommended`` in the same mode; for evaluations
        of objects, which it does not read, from the first protocol), records, images, vocabulary_hash, options.

    Raises:
        ValueError: a protocol that does not exist, or none that can read the evaluation.
    """
    results = score_all(evaluation, protocols)
    if not results:
        raise ValueError(f"none of the protocols {', '.join(protocols)} can read this evaluation of {evaluation.level}")
    rows = []
    for result in results:
        reference = _reference(result, evaluation, results)
        for figure in FIGURES:
            rows.append(
                {
                    "mode": result.mode,
                    "protocol": result.protocol,
                    "version": result.version,
                    "figure": figure,
                    "value": result.summary[figure],
                    "difference": result.summary[figure] - reference.summary[figure],
                    "records": evaluation.records,
                    "images": evaluation.images,
                    "vocabulary_hash": result.vocabulary_hash,
                    "options": result.options,
                }
            )
    return pd.DataFrame(rows)


def protocol_differences(evaluation: Evaluation, protocols: Sequence[str] = tuple(PROTOCOLS)) -> pd.DataFrame:
    """Each rule in which a protocol departs from ``recommended``, with what it concerns in this evaluation.

    Where the evaluation was scored with other options than the default, every protocol, ``recommended`` included, has a
    row for each of them.

    Returns:
        A row per mode, protocol and rule: mode, protocol, version, rule (a few words), explanation (a sentence that can
        be cited), concerns (how many classes, or the figure at stake, in this evaluation), records, images,
        vocabulary_hash, options.
    """
    rows = []
    for result in score_all(evaluation, protocols):
        protocol = protocol_named(result.protocol)
        departures = _departures(protocol, result, evaluation) + scoring_departures(protocol, result.mode, evaluation)
        for rule, explanation, concerns in departures:
            rows.append(
                {
                    "mode": result.mode,
                    "protocol": result.protocol,
                    "version": result.version,
                    "rule": rule,
                    "explanation": explanation,
                    "concerns": concerns,
                    "records": evaluation.records,
                    "images": evaluation.images,
                    "vocabulary_hash": result.vocabulary_hash,
                    "options": result.options,
                }
            )
    return pd.DataFrame(rows, columns=list(_DIFFERENCES))


def _reference(result: ProtocolResult, evaluation: Evaluation, results: Sequence[ProtocolResult]) -> ProtocolResult:
    if PROTOCOLS[REFERENCE].applies(evaluation, result.mode):
        return PROTOCOLS[REFERENCE](evaluation, result.mode)
    return next(other for other in results if other.mode == result.mode)


def _departures(protocol: Protocol, result: ProtocolResult, evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(rule, explanation, concerns) of the ways in which a protocol counts."""
    classes, departures = result.classes, []
    only = f"{int(classes['predicted_only'].sum())} classes are only predicted"
    missed = f"{int(((classes['pixels'] > 0) & ~(classes['IoU'] > 0)).sum())} classes are missed"
    if protocol.nothing == "column_dropped":
        departures.append(
            (
                "background as a class",
                "Background is averaged as one more class of the overall mean, with IoU 0 as soon as one labelled "
                "pixel is predicted background, because no pixel counts as labelled background.",
                f"background IoU {result.summary['nothing_IoU']:.2f}",
            )
        )
    if protocol.nothing in ("forced", "counted"):
        how = (
            "Predictions on unlabelled pixels are overwritten by background before they are counted, so that "
            "background is right there by construction; it enters the overall mIoU, recall, fwIoU and pixel accuracy."
            if protocol.nothing == "forced"
            else "Background is averaged as one more class of the overall means."
        )
        departures.append(("background as a class", how, f"background IoU {result.summary['nothing_IoU']:.2f}"))
    if protocol.overall == "occurring_or_predicted":
        where = (
            "overall and group means" if protocol.groups == protocol.overall else "overall mean, not the group means"
        )
        departures.append(
            (
                "predicted-only classes",
                f"A class that is predicted somewhere but never labelled enters the {where} as 0.",
                only,
            )
        )
    if protocol.groups == "found":
        departures.append(
            (
                "missed classes dropped",
                "The means over seen and unseen classes are taken over classes with an IoU above 0, so that a class "
                "which is missed altogether leaves the mean instead of counting 0.",
                missed,
            )
        )
    if protocol.mean_accuracy:
        departures.append(
            (
                "group pixel accuracy",
                "What is reported as the pixel accuracy of a group is the mean recall of its classes.",
                f"{result.summary['classes_seen']} seen and {result.summary['classes_unseen']} unseen classes",
            )
        )
    if protocol.charges_background and evaluation.background is not None:
        painted = evaluation.background.matrix()[: len(classes)].sum()
        departures.append(
            (
                "background charged",
                "Parts predicted where no object of any kind is count as false positives; under the other pred-all "
                "protocols a system that paints parts all over the background scores the same as one that does not.",
                f"{int(painted)} background pixels are predicted as parts",
            )
        )
    if protocol.boundary.startswith("label_difference"):
        departures.append(
            (
                "boundary of label differences",
                "The boundary map is the label minus the smallest label nearby: interiors become the first class and "
                "the figures depend on the order of the classes, so that they are no boundary IoU.",
                f"boundary figure {result.summary['boundary_IoU']:.2f}",
            )
        )
    if protocol.harmonic_of_zeros == 0 and result.summary["seen"] == 0 == result.summary["unseen"]:
        departures.append(
            (
                "harmonic mean of zeros",
                "Where the means over seen and unseen classes are both 0, their harmonic mean is 0, not undefined.",
                "both means are 0",
            )
        )
    return departures

"""The protocols there are, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovparts_lib.evaluation.counts import ConfusionMatrix
from ovparts_lib.evaluation.metrics import harmonic
from ovparts_lib.evaluation.protocols import Protocol, ProtocolResult
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.vocabularies.vocabulary import Vocabulary

_BOTH, _ORACLE, _ALL = ("oracle_obj", "pred_all"), ("oracle_obj",), ("pred_all",)
_SOUND = (
    "Mean over the classes of a group that occur in the ground truth, a missed class counts 0; a background prediction "
    "on a labelled pixel is an error; classes that are predicted but do not occur are counted apart; background is "
    "never averaged; boundary IoU of each class's own mask."
)
_DIFFERENCE = "Boundary IoU as released: of label differences, whose values depend on the order of the classes."

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="recommended",
            version="1",
            modes=_BOTH,
            description=f"Labelled part pixels. {_SOUND}",
            overall="occurring",
            groups="occurring",
            boundary="own_mask",
        ),
        Protocol(
            name="recommended_strict",
            version="1",
            modes=_ALL,
            description=(
                "Labelled part pixels, and parts predicted where no object of any kind is count as false positives "
                f"(each pixel once per image). {_SOUND}"
            ),
            overall="occurring",
            groups="occurring",
            charges_background=True,
            boundary="own_mask",
        ),
        Protocol(
            name="ov_parts",
            version="1",
            modes=_ORACLE,
            description=(
                "OV-PARTS (GeneralizedSemSegEvaluator): labelled part pixels; classes that are predicted but do not "
                "occur enter the means as 0. Its pred-obj evaluation was not released."
            ),
            overall="occurring_or_predicted",
            groups="occurring_or_predicted",
            predicted_nothing=False,
        ),
        Protocol(
            name="partclipseg_oracle",
            version="1",
            modes=_ORACLE,
            description=(
                "part-clipseg (CLIPSegEvaluator, PartCLIPSegEvaluator; ORACLE true): labelled part pixels; means over "
                f"classes that occur. {_DIFFERENCE}"
            ),
            overall="occurring",
            groups="occurring",
            predicted_nothing=False,
            boundary="label_difference",
        ),
        Protocol(
            name="partclipseg_pred_all",
            version="1",
            modes=_ALL,
            description=(
                "part-clipseg (ORACLE false): labelled part pixels; background is a class of the overall mean with IoU "
                "0 as soon as one labelled pixel is predicted background; classes that are only predicted enter the "
                f"overall mean as 0 but not the group means. {_DIFFERENCE}"
            ),
            overall="occurring_or_predicted",
            groups="occurring",
            nothing="column_dropped",
            only_predicted_iou=0.0,
            boundary="label_difference_with_nothing",
        ),
        Protocol(
            name="partcatseg_oracle",
            version="1",
            modes=_ORACLE,
            description=(
                "part-catseg (oracle_obj): labelled part pixels; classes that are only predicted enter the overall "
                "mean as 0; group means are over classes with an IoU above 0, so that missed classes are left out; "
                "the groups' pixel accuracy is their mean recall."
            ),
            overall="occurring_or_predicted",
            groups="found",
            predicted_nothing=False,
            only_predicted_iou=0.0,
            mean_accuracy=True,
        ),
        Protocol(
            name="partcatseg_pred_all",
            version="1",
            modes=_ALL,
            description=(
                "part-catseg (pred_all): as its oracle_obj, and background is a class that is right on every "
                "unlabelled pixel by construction, which raises the overall means."
            ),
            overall="occurring_or_predicted",
            groups="found",
            nothing="forced",
            only_predicted_iou=0.0,
            mean_accuracy=True,
        ),
        Protocol(
            name="detectron2",
            version="1",
            modes=_ALL,
            description=(
                "detectron2 (SemSegEvaluator), over objects: labelled pixels predicted as a class; means over classes "
                f"that occur. Group means are ours, it has none. {_DIFFERENCE} Its pairs of labels are counted in "
                "8 bits and overflow."
            ),
            overall="occurring",
            groups="occurring",
            level="objects",
            predicted_nothing=False,
            boundary="label_difference_8_bit",
        ),
        Protocol(
            name="ovseg",
            version="2",
            modes=_ALL,
            description=(
                "ov-seg and zsseg, over objects: as detectron2, but classes that are only predicted enter the means "
                "as 0, and the harmonic mean of two zeros is 0."
            ),
            overall="occurring_or_predicted",
            groups="occurring_or_predicted",
            level="objects",
            predicted_nothing=False,
            harmonic_of_zeros=0.0,
        ),
        Protocol(
            name="objcatseg",
            version="1",
            modes=_ALL,
            description=(
                "part-catseg's ObjCATSegEvaluator: objects with parts and background, which is a class, over all "
                "pixels; group means over classes with an IoU above 0."
            ),
            overall="occurring_or_predicted",
            groups="found",
            level="objects",
            nothing="counted",
            only_predicted_iou=0.0,
            mean_accuracy=True,
        ),
    )
}


def recommended(matrix: ConfusionMatrix | np.ndarray, vocabulary: Vocabulary, mode: str) -> ProtocolResult:
    """The recommended protocol: every class that occurs counts, nothing else does. See ``PROTOCOLS["recommended"]``."""
    return PROTOCOLS["recommended"].read(matrix, vocabulary, mode)


def ov_parts(matrix: ConfusionMatrix | np.ndarray, vocabulary: Vocabulary, mode: str) -> ProtocolResult:
    """The metric of OV-PARTS (NeurIPS 2023), as its released evaluator computes it. See ``PROTOCOLS["ov_parts"]``."""
    return PROTOCOLS["ov_parts"].read(matrix, vocabulary, mode)


def harmonic_mean(seen: float, unseen: float) -> float:
    """2ab / (a + b); NaN if either is NaN or both are 0."""
    return float(harmonic(seen, unseen))


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
    chosen = [protocol_named(name) for name in protocols]
    return [
        protocol(evaluation, mode)
        for protocol in chosen
        for mode in evaluation.modes
        if protocol.applies(evaluation, mode)
    ]

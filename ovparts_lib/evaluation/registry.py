"""The protocols there are, by name."""

from __future__ import annotations

from collections.abc import Sequence

from ovparts_lib.evaluation.protocols import Note, Protocol, ProtocolResult
from ovparts_lib.evaluation.stored import Evaluation

_BOTH, _ORACLE, _ALL = ("oracle_obj", "pred_all"), ("oracle_obj",), ("pred_all",)
_SOUND = (
    "Mean over the classes of a group that occur in the ground truth, a missed class counts 0; a background prediction "
    "on a labelled pixel is an error; classes that are predicted but do not occur are counted apart; background is "
    "never averaged; boundary IoU of each class's own mask."
)
_DIFFERENCE = "Boundary IoU as released: of label differences, whose values depend on the order of the classes."

# Departures in counting.
_PREDICTED_ONLY = Note(
    "predicted-only classes",
    "A class that is predicted somewhere but never labelled enters the means as 0.",
)
_PREDICTED_ONLY_OVERALL = Note(
    "predicted-only classes",
    "A class that is predicted somewhere but never labelled enters the overall mean, not the group means, as 0.",
)
_MISSED = Note(
    "missed classes dropped",
    "The means over seen and unseen classes are taken over classes with an IoU above 0, so that a class which is "
    "missed altogether leaves the mean instead of counting 0.",
)
_MEAN_ACCURACY = Note(
    "group pixel accuracy", "What is reported as the pixel accuracy of a group is the mean recall of its classes."
)
_BACKGROUND_CLASS = Note(
    "background as a class",
    "Background is averaged as one more class of the overall mean, with IoU 0 as soon as one labelled pixel is "
    "predicted background, because no pixel counts as labelled background.",
)
_BACKGROUND_FORCED = Note(
    "background as a class",
    "Predictions on unlabelled pixels are overwritten by background before they are counted, so that background is "
    "right there by construction; it enters the overall mIoU, recall, fwIoU and pixel accuracy.",
)
_BACKGROUND_COUNTED = Note("background as a class", "Background is averaged as one more class of the overall means.")
_CHARGED = Note(
    "background charged",
    "Parts predicted where no object of any kind is count as false positives; under the other pred-all protocols a "
    "system that paints parts all over the background scores the same as one that does not.",
)
_LABEL_DIFFERENCE = Note(
    "boundary of label differences",
    "The boundary map is the label minus the smallest label nearby: interiors become the first class and the figures "
    "depend on the order of the classes, so that they are no boundary IoU.",
)
_ZEROS = Note(
    "harmonic mean of zeros",
    "Where the means over seen and unseen classes are both 0, their harmonic mean is 0, not undefined.",
)
# Departures in scoring, which stored counts cannot tell apart any more: evaluate with the option named.
_RESAMPLED = Note(
    "twice-resampled ground truth (ground_truth: double_resized)",
    "The released evaluators score against a label map that was resized for the network and back, each time with src = "
    "floor(target · in / out); the floors add up to a shift of one pixel down and right for nearly all rows and "
    "columns, so that a prediction equal to the label file does not score 100. PartImageNet is no such case: its "
    "released mapper does not resize.",
)
_REPLACED = Note(
    "replaced empty samples (empty_samples: replace_as_released)",
    "A record without a labelled part pixel is replaced by another one drawn at random, as the released code does, so "
    "that some records count more than once and the figures depend on the draw.",
)
_ZERO_OTHERS = Note(
    "object restriction (oracle_rule: zero_others)",
    "CLIPSeg and PartCLIPSeg as released set the probabilities of parts of other objects to 0 and leave them in the "
    "arg-max, which shows where the known object's own probabilities underflow to 0.",
)
_SUBSTRING = Note(
    "object restriction (oracle_rule: substring)",
    "The CAT-Seg family as released lets all parts compete whose name contains the name of the known object, so that "
    "parts of other objects slip in, and of several objects it knows only the one with the smallest id: for ADE20K the "
    "two differ for 8 of 44 objects (bed, chair, door, light, oven, shelf, table, washer).",
)
_SCORING = (_RESAMPLED, _REPLACED)

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
            notes=(_CHARGED,),
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
            predicted_background=False,
            notes=(_PREDICTED_ONLY, _ZERO_OTHERS, _SUBSTRING, *_SCORING),
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
            predicted_background=False,
            boundary="label_difference",
            notes=(_LABEL_DIFFERENCE, _ZERO_OTHERS, *_SCORING),
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
            background="column_dropped",
            only_predicted_iou=0.0,
            boundary="label_difference_with_background",
            notes=(_BACKGROUND_CLASS, _PREDICTED_ONLY_OVERALL, _LABEL_DIFFERENCE, *_SCORING),
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
            predicted_background=False,
            only_predicted_iou=0.0,
            mean_accuracy=True,
            notes=(_PREDICTED_ONLY_OVERALL, _MISSED, _MEAN_ACCURACY, _SUBSTRING, *_SCORING),
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
            background="forced",
            only_predicted_iou=0.0,
            mean_accuracy=True,
            notes=(_BACKGROUND_FORCED, _PREDICTED_ONLY_OVERALL, _MISSED, _MEAN_ACCURACY, *_SCORING),
        ),
        Protocol(
            name="recommended_objects",
            version="1",
            modes=_ALL,
            description=f"Labelled pixels, over objects. {_SOUND}",
            overall="occurring",
            groups="occurring",
            level="objects",
            boundary="own_mask",
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
            predicted_background=False,
            boundary="label_difference_8_bit",
            notes=(_LABEL_DIFFERENCE,),
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
            predicted_background=False,
            harmonic_of_zeros=0.0,
            notes=(_PREDICTED_ONLY, _ZEROS),
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
            background="counted",
            only_predicted_iou=0.0,
            mean_accuracy=True,
            notes=(_BACKGROUND_COUNTED, _PREDICTED_ONLY_OVERALL, _MISSED, _MEAN_ACCURACY),
        ),
    )
}


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

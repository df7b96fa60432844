"""How the released code scores before it counts, and what of it an evaluation did.

These are rules of making predictions and ground truth, which stored counts cannot tell apart any more: they hold only
where the evaluation was scored with the option of that name.
"""

from __future__ import annotations

from ovparts_lib.evaluation.label_maps import competing_parts
from ovparts_lib.evaluation.protocols import Protocol
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.vocabularies.vocabulary import Vocabulary

# Vocabularies whose released mapper does not resize labels.
_EXACT_LABELS = ("partimagenet_seg", "partimagenet_ood")
_GROUND_TRUTH = (
    "The released evaluators score against a label map that was resized for the network and back, each time with "
    "src = floor(target · in / out); the floors add up to a shift of one pixel down and right for nearly all rows and "
    "columns, so that a prediction equal to the label file does not score 100."
)
_NEVER_RESIZED = (
    " PartImageNet is no such case: its released mapper does not resize, and it is evaluated on the label files."
)
_RESTRICTIONS = {
    "zero_others": (
        "CLIPSeg and PartCLIPSeg as released set the probabilities of parts of other objects to 0 and leave them in "
        "the arg-max, which shows where the known object's own probabilities underflow to 0."
    ),
    "substring": (
        "The CAT-Seg family as released lets all parts compete whose name contains the name of the known object, so "
        "that parts of other objects slip in, and of several objects it knows only the one with the smallest id."
    ),
}
_RELEASED_RESTRICTIONS = {
    "ov_parts": ("zero_others", "substring"),
    "partclipseg_oracle": ("zero_others",),
    "partcatseg_oracle": ("substring",),
}
_EMPTY = (
    "A record without a labelled part pixel is replaced by another one drawn at random, as the released code does, so "
    "that some records count more than once and the figures depend on the draw."
)


def scoring_departures(protocol: Protocol, mode: str, evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(rule, explanation, concerns) of every way of scoring that is released with a protocol, or in use here.

    Args:
        protocol: one that reads the evaluation.
        mode: of the evaluation.
        evaluation: says with which options it was scored.
    """
    used = dict(option.split("=", 1) for option in evaluation.options.split(", ") if "=" in option)
    released = protocol.level == "parts" and not protocol.name.startswith("recommended")
    found = []
    if mode == "oracle_obj":
        found += _restriction(protocol, evaluation.vocabulary, used.get("oracle_rule"))
    never = evaluation.vocabulary.name in _EXACT_LABELS
    if "ground_truth" in used:
        explanation = _GROUND_TRUTH + (_NEVER_RESIZED if never else "")
        found.append(("twice-resampled ground truth", explanation, f"scored so here: {used['ground_truth']}"))
    elif released and not never:
        found.append(("twice-resampled ground truth", _GROUND_TRUTH, "not done here: native label files"))
    number = evaluation.skipped_records
    if "empty_samples" in used:
        found.append(("replaced empty samples", _EMPTY, f"scored so here: {number} records are replaced"))
    elif released and number:
        found.append(("replaced empty samples", _EMPTY, f"not done here: {number} records are left out"))
    return found


def _restriction(protocol: Protocol, vocabulary: Vocabulary, used: str | None) -> list[tuple[str, str, str]]:
    """How the known object restricts the parts: the rule in use, or the released ones that are not."""
    rules = _RELEASED_RESTRICTIONS.get(protocol.name, ()) if used is None else (used,)
    rows = []
    for rule in rules:
        concerns = "not done here: only parts of the known object compete, found by its exact id"
        if used is not None:
            concerns = "scored so here"
        if rule == "substring":
            concerns += f"; {_let_through(vocabulary)}"
        rows.append(("object restriction", _RESTRICTIONS[rule], concerns))
    return rows


def _let_through(vocabulary: Vocabulary) -> str:
    """For which objects restriction by name and by id differ."""
    differing = [
        name
        for object_id, name in enumerate(vocabulary.objects)
        if vocabulary.parts_of(object_id)
        and competing_parts((object_id,), vocabulary, "substring") != competing_parts((object_id,), vocabulary)
    ]
    number = f"{len(differing)} of {len(vocabulary.objects_with_parts)} objects"
    return f"the two differ for {number}" + (f": {', '.join(differing)}" if differing else "")

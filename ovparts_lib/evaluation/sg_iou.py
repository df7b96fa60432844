"""SG-IoU (semantics-guided IoU): which classes of a list are kinds of others."""

import json
from functools import cache
from importlib import resources


@cache
def load_fathers(vocabulary: str) -> tuple[tuple[int, int], ...]:
    """The released table of SG-IoU (semantics-guided IoU) of a class list: pairs of a class and one of its fathers.

    SG-IoU forgives a prediction that names a broader class of the same thing. In long class lists some classes contain
    others ("chair", "seat"), so that a right answer may count as wrong. A table names the fathers of each class, its
    hypernyms and synonyms. Pixels predicted as a father count for the class, weighted by the precision of that
    prediction taken as "the father, or this child" (:attr:`Tally.credited`): to predict the hypernym everywhere does
    not pay. Fathers are not followed further up, and are mutual only where the table says so both ways.

    Source: Liu et al., SCAN (CVPR 2024), released code. Of its tables only ADE20K-847's is active there; eleven keys of
    it occur twice, and the later entry counts. Some entries look wrong (PC-459's "basket" has the father "ball"); they
    are kept, for comparability.

    Args:
        vocabulary: ``ade20k_150``, ``ade20k_847`` and ``pascal_context_459`` have one; other lists get no pair.
    """
    text = resources.files(__package__).joinpath("sg_iou_fathers.json").read_text(encoding="utf-8")
    table = json.loads(text).get(vocabulary, {})
    return tuple((int(child), father) for child, fathers in table.items() for father in fathers)

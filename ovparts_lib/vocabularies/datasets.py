"""The class lists of the benchmarks, shipped as JSON beside this file."""

import json
from importlib.resources import files

from ovparts_lib.vocabularies.part_vocabulary import PartVocabulary
from ovparts_lib.vocabularies.vocabulary import UnknownClassError, Vocabulary

PART_VOCABULARIES = ("pascal_part_116", "ade20k_part_234", "partimagenet_seg", "partimagenet_ood")
OBJECT_VOCABULARIES = (
    "coco_stuff_171",
    "ade20k_150",
    "ade20k_847",
    "pascal_context_59",
    "pascal_context_459",
    "pascal_voc_20",
)


def load_vocabulary(name: str) -> Vocabulary:
    """The class list of a dataset: a :class:`PartVocabulary` for ``PART_VOCABULARIES``.

    The object-level benchmarks (OVSeg's and SCAN's) define no unseen classes.

    Raises:
        UnknownClassError: no such dataset; the message lists those there are.
    """
    known = PART_VOCABULARIES + OBJECT_VOCABULARIES
    if name not in known:
        raise UnknownClassError(f"no vocabulary called {name!r}; there are {', '.join(known)}")
    facts = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return (PartVocabulary if "parts" in facts else Vocabulary)(**facts)

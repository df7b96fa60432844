"""Class lists as values: objects, parts, what is seen, and the maps between them."""

from ovparts_lib.vocabularies.vocabulary import (
    DATASET_VOCABULARIES,
    UnknownClassError,
    Vocabulary,
    load_vocabulary,
    split_part_name,
)

__all__ = ["DATASET_VOCABULARIES", "UnknownClassError", "Vocabulary", "load_vocabulary", "split_part_name"]

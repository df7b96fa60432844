"""Class lists as values: objects, parts, what is seen, and the maps between them."""

from ovparts_lib.vocabularies.datasets import OBJECT_VOCABULARIES, PART_VOCABULARIES, load_vocabulary
from ovparts_lib.vocabularies.part_vocabulary import PartVocabulary
from ovparts_lib.vocabularies.vocabulary import UnknownClassError, Vocabulary

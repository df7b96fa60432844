"""The words of a dataset, or of a user, as one immutable value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files

import numpy as np

POSSESSIVE = "'s"
DATASET_VOCABULARIES = ("pascal_part_116", "ade20k_part_234", "partimagenet_seg", "partimagenet_ood")


class UnknownClassError(ValueError):
    """A class name that a vocabulary does not hold; the message names the nearest one it does."""


def split_part_name(name: str) -> tuple[str, str]:
    """``"dog's head"`` -> ``("dog", "head")``; a name without ``'s`` stands for itself: ``("wheel", "wheel")``."""
    owner, possessive, generic = name.partition(POSSESSIVE)
    return (owner.strip(), generic.strip()) if possessive else (name, name)


@dataclass(frozen=True)
class Vocabulary:
    """Objects, their parts, which objects are seen in training, and the maps between them.

    Label maps hold indices into ``parts`` and ``objects``; ``ignore_label`` marks pixels without a label. Seen and
    unseen (base and novel in the papers) are properties of objects: a part is seen iff its object is.

    Attributes:
        name: identifier used in file names and tables.
        parts: object-specific part names, ``"dog's head"``, in label order.
        objects: object names in label order; objects without parts are allowed.
        unseen_objects: the objects held out from training.
        ignore_label: label value of pixels without a class (255 for 8-bit, 65535 for 16-bit files).

    Raises:
        ValueError: a name is empty or repeated, or ``ignore_label`` collides with a class index.
        UnknownClassError: a part's object or an unseen object is not in ``objects``.
    """

    name: str
    parts: tuple[str, ...]
    objects: tuple[str, ...]
    unseen_objects: frozenset[str] = frozenset()
    ignore_label: int = 255
    title: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "objects", tuple(self.objects))
        object.__setattr__(self, "unseen_objects", frozenset(self.unseen_objects))
        for kind, names in (("part", self.parts), ("object", self.objects)):
            if any(not str(name).strip() for name in names):
                raise ValueError(f"vocabulary {self.name!r}: a {kind} name is empty")
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"vocabulary {self.name!r}: {kind} names appear twice: {', '.join(repeated)}")
        for owner in {split_part_name(part)[0] for part in self.parts} | self.unseen_objects:
            self.object_id(owner)
        if self.ignore_label < max(len(self.parts), len(self.objects)):
            raise ValueError(
                f"vocabulary {self.name!r}: ignore_label {self.ignore_label} is also a class index; "
                f"choose one of at least {max(len(self.parts), len(self.objects))}"
            )

    @classmethod
    def from_words(cls, words: Mapping[str, Iterable[str]] | Sequence[str], name: str = "own_words") -> Vocabulary:
        """A vocabulary of one's own words, all of them unseen.

        Args:
            words: ``{"dog": ["head", "tail"], "car": ["wheel"]}``, or a flat list such as ``["car's wheel", "roof"]``.
                A flat word without ``'s`` is used as it stands and counts as its own object.
            name: name of the vocabulary.

        Raises:
            ValueError: no words, an empty word, or the same word twice.
        """
        if isinstance(words, str):
            raise ValueError(
                f"own words must be a list or a mapping, not the single string {words!r}; write [{words!r}]"
            )
        if isinstance(words, Mapping):
            for owner, parts in words.items():
                if isinstance(parts, str):
                    raise ValueError(f"own words: the parts of {owner!r} must be a list, not {parts!r}")
            names = [_own_part(owner, part) for owner, parts in words.items() for part in parts]
        else:
            names = [_own_word(str(word)) for word in words]
        if not names:
            raise ValueError("own words: at least one word is needed, for example ['car wheel', 'bus door']")
        owners = tuple(dict.fromkeys(split_part_name(part)[0] for part in names))
        return cls(name, tuple(names), owners, frozenset(owners), ignore_label=65535, title="Own words")

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any class, order, seen/unseen split or ignore label."""
        content = [self.parts, self.objects, sorted(self.unseen_objects), self.ignore_label]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Part names with every ``'s`` deleted, ``"dog head"``: what CLIPSeg feeds its text tower."""
        return tuple(part.replace(POSSESSIVE, "") for part in self.parts)

    @cached_property
    def part_to_object(self) -> tuple[int, ...]:
        """For each part, the index of its object in ``objects``."""
        return tuple(self.objects.index(split_part_name(part)[0]) for part in self.parts)

    @cached_property
    def generic_parts(self) -> tuple[str, ...]:
        """Part names without their object (``"head"``), each once, in alphabetical order."""
        return tuple(sorted({split_part_name(part)[1] for part in self.parts}))

    @cached_property
    def part_to_generic(self) -> tuple[int, ...]:
        """For each part, the index of its generic part in ``generic_parts``."""
        return tuple(self.generic_parts.index(split_part_name(part)[1]) for part in self.parts)

    @cached_property
    def objects_with_parts(self) -> tuple[str, ...]:
        """Objects that own at least one part, in alphabetical order (the order PartCLIPSeg and PartCATSeg use)."""
        return tuple(sorted({self.objects[index] for index in self.part_to_object}))

    @cached_property
    def object_to_object_with_parts(self) -> tuple[int | None, ...]:
        """For each object, its index in ``objects_with_parts``; None for an object without parts."""
        ranks = {name: rank for rank, name in enumerate(self.objects_with_parts)}
        return tuple(ranks.get(name) for name in self.objects)

    @cached_property
    def seen_object_ids(self) -> tuple[int, ...]:
        """Indices of the objects that training may show."""
        return tuple(i for i, name in enumerate(self.objects) if name not in self.unseen_objects)

    @cached_property
    def unseen_object_ids(self) -> tuple[int, ...]:
        """Indices of the objects held out from training."""
        return tuple(i for i, name in enumerate(self.objects) if name in self.unseen_objects)

    @cached_property
    def seen_part_ids(self) -> tuple[int, ...]:
        """Indices of the parts of seen objects."""
        return tuple(i for i, owner in enumerate(self.part_to_object) if self.objects[owner] not in self.unseen_objects)

    @cached_property
    def unseen_part_ids(self) -> tuple[int, ...]:
        """Indices of the parts of unseen objects."""
        return tuple(i for i, owner in enumerate(self.part_to_object) if self.objects[owner] in self.unseen_objects)

    @cached_property
    def seen(self) -> Vocabulary:
        """The vocabulary of zero-shot training: seen objects and their parts; new ids are ranks in the old order."""
        return Vocabulary(
            name=f"{self.name}_seen",
            parts=tuple(self.parts[i] for i in self.seen_part_ids),
            objects=tuple(self.objects[i] for i in self.seen_object_ids),
            ignore_label=self.ignore_label,
            title=f"{self.title}, seen classes" if self.title else "",
        )

    def part_table(self, target: Vocabulary) -> np.ndarray:
        """Look-up table from this vocabulary's part labels to ``target``'s; see :meth:`object_table`."""
        return _label_table(self.parts, target.parts, self.ignore_label, target.ignore_label)

    def object_table(self, target: Vocabulary) -> np.ndarray:
        """Look-up table from this vocabulary's object labels to ``target``'s.

        Returns:
            int64 array of length ``ignore_label + 1``; labels whose name ``target`` lacks, and the ignore label, become
            ``target.ignore_label``. Apply it as ``table[label_map]``.
        """
        return _label_table(self.objects, target.objects, self.ignore_label, target.ignore_label)

    def parts_of(self, object_id: int) -> tuple[int, ...]:
        """Indices of the parts of one object, in label order. Exact match, never by substring."""
        return tuple(i for i, owner in enumerate(self.part_to_object) if owner == object_id)

    def part_id(self, name: str) -> int:
        """Index of a part. Raises UnknownClassError with the nearest name when it is not there."""
        return _find(name, self.parts, "part", self.name)

    def object_id(self, name: str) -> int:
        """Index of an object. Raises UnknownClassError with the nearest name when it is not there."""
        return _find(name, self.objects, "object", self.name)

    def is_seen_part(self, part_id: int) -> bool:
        """Whether the part's object may be shown in training."""
        return self.objects[self.part_to_object[part_id]] not in self.unseen_objects


def load_vocabulary(name: str) -> Vocabulary:
    """The class list of a part dataset: one of ``DATASET_VOCABULARIES``.

    Raises:
        UnknownClassError: no such dataset; the message lists those there are.
    """
    if name not in DATASET_VOCABULARIES:
        raise UnknownClassError(f"no vocabulary called {name!r}; there are {', '.join(DATASET_VOCABULARIES)}")
    facts = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Vocabulary(
        name=facts["name"],
        parts=tuple(facts["parts"]),
        objects=tuple(facts["objects"]),
        unseen_objects=frozenset(facts["unseen_objects"]),
        ignore_label=facts["ignore_label"],
        title=facts["title"],
    )


def _own_part(owner: str, part: str) -> str:
    owner, part = str(owner).strip(), str(part).strip()
    if not owner or not part:
        raise ValueError(f"own words: a word is empty, in {{{owner!r}: [{part!r}]}}")
    return f"{owner}{POSSESSIVE} {part}"


def _own_word(word: str) -> str:
    """``" dog's  head "`` -> ``"dog's head"``; a word without ``'s`` is only stripped."""
    owner, possessive, part = word.partition(POSSESSIVE)
    if possessive:
        return _own_part(owner, part)
    if not word.strip():
        raise ValueError("own words: a word is empty")
    return word.strip()


def _label_table(old: Sequence[str], new: Sequence[str], old_ignore: int, new_ignore: int) -> np.ndarray:
    new_ids = {name: index for index, name in enumerate(new)}
    table = np.full(old_ignore + 1, new_ignore, np.int64)
    table[: len(old)] = [new_ids.get(name, new_ignore) for name in old]
    return table


def _find(name: str, names: Sequence[str], kind: str, vocabulary: str) -> int:
    if name in names:
        return names.index(name)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UnknownClassError(f"vocabulary {vocabulary!r} has no {kind} {name!r}{hint}")

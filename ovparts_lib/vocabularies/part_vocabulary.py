"""Object-specific parts as classes: (object, part) pairs, the objects, and the parts regardless of object."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ovparts_lib.vocabularies.vocabulary import UnknownClassError, Vocabulary, _digest

# What keyboards and word processors write for an apostrophe: ’ ‘ ‛ ʼ ʹ ʻ ＇ ′ ´ ꞌ `
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u201b\u02bc\u02b9\u02bb\uff07\u2032\u00b4\ua78c`", "'"))
# Marks of direction, soft hyphens, zero-width blanks, control characters, halves of characters; what joins emoji and
# letters of some scripts is seen.
_UNSEEN, _JOINERS = ("Cc", "Cf", "Cs"), "\u200c\u200d"
_POSSESSIVE = re.compile(r"'[sS](?=\s|$)")


@dataclass(frozen=True, init=False)
class PartVocabulary(Vocabulary):
    """A vocabulary whose classes are the parts of objects; a part is seen iff its object is.

    Label maps hold indices into ``parts`` (the classes) and ``objects``.

    Args:
        name: identifier used in file names and tables.
        parts: names of object-specific parts in label order: an object, ``'s``, and the part, ``"dog's head"``; or an
            object alone, which then is its own part.
        objects: object names in label order; objects without parts are allowed.
        unseen_objects: the objects held out from training.
        ignore_label: label value of pixels without a class.
        title: as in headings.

    Attributes:
        objects: as given.
        unseen_objects: as given.
        pairs: (object, part regardless of object) of each class: ``("dog", "head")``; ``("wheel", "wheel")`` for an
            object that is its own part.

    Raises:
        ValueError: a name is empty or repeated, or ``ignore_label`` collides with a class index.
        UnknownClassError: a part's object or an unseen object is not in ``objects``.
    """

    objects: tuple[str, ...]
    unseen_objects: frozenset[str]
    pairs: tuple[tuple[str, str], ...] = field(repr=False, compare=False)

    def __init__(
        self,
        name: str,
        parts: Sequence[str],
        objects: Sequence[str],
        unseen_objects: Iterable[str] = frozenset(),
        ignore_label: int = 255,
        title: str = "",
    ) -> None:
        # a frozen dataclass is filled through its dictionary
        vars(self).update(name=name, ignore_label=ignore_label, objects=tuple(objects))
        vars(self).update(unseen_objects=frozenset(unseen_objects))
        self._check_names("object", self.objects)
        for owner in self.unseen_objects:
            self.object_id(owner)
        vars(self).update(pairs=tuple(self._pair(part) for part in parts))
        unseen = {part for part, (owner, _) in zip(parts, self.pairs, strict=True) if owner in self.unseen_objects}
        super().__init__(name, tuple(parts), frozenset(unseen), ignore_label, title)

    def _pair(self, part: str) -> tuple[str, str]:
        """The object that a part's name begins with, the longest if there are several, and the part."""
        if part in self.objects:
            return part, part
        owner = max((name for name in self.objects if part.startswith(f"{name}'s ")), key=len, default=None)
        if owner is None:
            raise UnknownClassError(
                f"vocabulary {self.name!r} has no object {part.partition(chr(39) + 's')[0]!r}, to which its part "
                f"{part!r} would belong"
            )
        return owner, part.removeprefix(f"{owner}'s ")

    @classmethod
    def from_words(cls, words: Mapping[str, Iterable[str]] | Sequence[str], name: str = "own_words") -> PartVocabulary:
        """A vocabulary of one's own words, all of them unseen.

        Typographic apostrophes mean the same as ``'``; invisible characters, which copied text often holds, are left
        out. In a flat list, ``'s`` at the end of a word separates an object
        from its part; a word without it is used as it stands and counts as its own object.

        Args:
            words: ``{"dog": ["head", "tail"], "car": ["wheel"]}``, or a flat list such as ``["car's wheel", "roof"]``.
            name: name of the vocabulary.

        Raises:
            ValueError: no words, an empty word, the same word twice, or an ``'s`` without an object or a part.
        """
        if isinstance(words, str):
            raise ValueError(f"own words must be a list or a mapping, not the string {words!r}; write [{words!r}]")
        if isinstance(words, Mapping):
            for owner, parts in words.items():
                if isinstance(parts, str):
                    raise ValueError(f"own words: the parts of {owner!r} must be a list, not {parts!r}")
            pairs = [(_tidy(owner), _tidy(part)) for owner, parts in words.items() for part in parts]
        else:
            pairs = [_own_pair(_tidy(word)) for word in words]
        if not pairs:
            raise ValueError("own words: at least one word is needed, for example ['car wheel', 'bus door']")
        for owner, part in pairs:
            if not owner or part == "":
                raise ValueError(f"own words: a word is empty, in {{{owner!r}: [{part!r}]}}")
            if part and part.startswith(f"{owner}'s "):
                raise ValueError(f"own words: the part {part!r} repeats its object; write {part[len(owner) + 3 :]!r}")
        owners = tuple(dict.fromkeys(owner for owner, _ in pairs))
        parts = [owner if part is None else f"{owner}'s {part}" for owner, part in pairs]
        return cls(name, parts, owners, owners, ignore_label=65535, title="Own words")

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any class, object, order, seen/unseen split or ignore label."""
        return _digest([self.parts, self.objects, sorted(self.unseen_objects), self.ignore_label])

    @property
    def parts(self) -> tuple[str, ...]:
        """The classes: names of object-specific parts."""
        return self.classes

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Object and part side by side, ``"dog head"``: what CLIPSeg feeds its text tower."""
        named = zip(self.classes, self.pairs, strict=True)
        return tuple(owner if owner == name else f"{owner} {part}" for name, (owner, part) in named)

    @cached_property
    def part_to_object(self) -> tuple[int, ...]:
        """For each part, the index of its object in ``objects``."""
        return tuple(self.objects.index(owner) for owner, _ in self.pairs)

    @cached_property
    def generic_parts(self) -> tuple[str, ...]:
        """Parts regardless of object (``"head"``), each once, in alphabetical order."""
        return tuple(sorted({part for _, part in self.pairs}))

    @cached_property
    def part_to_generic(self) -> tuple[int, ...]:
        """For each part, its index regardless of object in ``generic_parts``."""
        return tuple(self.generic_parts.index(part) for _, part in self.pairs)

    @cached_property
    def objects_with_parts(self) -> tuple[str, ...]:
        """Objects that own at least one part, in alphabetical order (the order PartCLIPSeg and PartCATSeg use)."""
        return tuple(sorted({owner for owner, _ in self.pairs}))

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
    def seen(self) -> PartVocabulary:
        """The vocabulary of zero-shot training: seen objects and their parts; new ids are ranks in the old order."""
        parts = [self.parts[i] for i in self.seen_ids]
        objects = [self.objects[i] for i in self.seen_object_ids]
        return PartVocabulary(
            f"{self.name}_seen", parts, objects, ignore_label=self.ignore_label, title=self._seen_title
        )

    @cached_property
    def whole_objects(self) -> Vocabulary:
        """The objects that have parts as classes of their own, in alphabetical order (object-level scores)."""
        names = self.objects_with_parts
        return Vocabulary(
            f"{self.name}_objects",
            names,
            self.unseen_objects & set(names),
            self.ignore_label,
            f"{self.title}, objects" if self.title else "",
        )

    def object_table(self, target: PartVocabulary) -> np.ndarray:
        """Look-up table from this vocabulary's object labels to ``target``'s; see :meth:`table`."""
        return self._table(self.objects, target.objects, target.ignore_label)

    def parts_of(self, object_id: int) -> tuple[int, ...]:
        """Indices of the parts of one object, in label order. Exact match, never by substring."""
        return tuple(i for i, owner in enumerate(self.part_to_object) if owner == object_id)

    def parts_naming(self, object_id: int) -> tuple[int, ...]:
        """Indices of the parts whose name contains the object's: with those of an armchair for a chair, as released."""
        return tuple(i for i, part in enumerate(self.parts) if self.objects[object_id] in part)

    def part_id(self, name: str) -> int:
        """Index of a part. Raises UnknownClassError with the nearest name when it is not there."""
        return self._find(name, self.parts, "part")

    def object_id(self, name: str) -> int:
        """Index of an object. Raises UnknownClassError with the nearest name when it is not there."""
        return self._find(name, self.objects, "object")

    def is_seen_part(self, part_id: int) -> bool:
        """Whether the part's object may be shown in training."""
        return self.is_seen(part_id)


def _tidy(word: object) -> str:
    """A user's word with plain apostrophes and single blanks, without HTML's entities and what cannot be seen."""
    plain = " ".join(html.unescape(str(word)).translate(_APOSTROPHES).split())
    seen = (sign for sign in plain if sign in _JOINERS or unicodedata.category(sign) not in _UNSEEN)
    return "".join(seen).strip(_JOINERS)


def _own_pair(word: str) -> tuple[str, str | None]:
    """``"dog's head"`` -> ``("dog", "head")``; a word without a possessive -> ``(word, None)``."""
    possessive = _POSSESSIVE.search(word)
    if possessive is None:
        if not word:
            raise ValueError("own words: a word is empty")
        return word, None
    owner, part = word[: possessive.start()].strip(), word[possessive.end() :].strip()
    if not owner or not part:
        missing = "an object before" if not owner else "a part after"
        raise ValueError(
            f"own words: {word!r} lacks {missing} its 's; write \"dog's head\" for a part of an object, or a word "
            "without 's"
        )
    return owner, part

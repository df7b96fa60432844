"""The class names of a dataset, or of a user, as one immutable value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

import numpy as np


class UnknownClassError(ValueError):
    """A class name that a vocabulary does not hold; the message names the nearest one it does."""


@dataclass(frozen=True)
class Vocabulary:
    """Class names taken verbatim, and which of them are seen in training.

    Label maps hold indices into ``classes``; ``ignore_label`` marks pixels without a label. Seen and unseen classes are
    called base and novel in the papers.

    Attributes:
        name: identifier used in file names and tables.
        classes: class names in label order; ``"altar, communion table, lord's table"`` is one of them.
        unseen: the classes held out from training.
        ignore_label: label value of pixels without a class (255 for 8-bit, 65535 for 16-bit files).
        title: as in headings.

    Raises:
        ValueError: a name is empty or repeated, or ``ignore_label`` collides with a class index.
        UnknownClassError: an unseen class is not among ``classes``.
    """

    name: str
    classes: tuple[str, ...]
    unseen: frozenset[str] = frozenset()
    ignore_label: int = 255
    title: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        vars(self).update(classes=tuple(self.classes), unseen=frozenset(self.unseen))
        self._check_names("class", self.classes)
        for name in self.unseen:
            self.class_id(name)

    def _check_names(self, kind: str, names: Sequence[str]) -> None:
        if any(not str(name).strip() for name in names):
            raise ValueError(f"vocabulary {self.name!r}: a {kind} name is empty")
        if len(set(names)) < len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"vocabulary {self.name!r}: {kind} names appear twice: {', '.join(repeated)}")
        if self.ignore_label < len(names):
            raise ValueError(
                f"vocabulary {self.name!r}: ignore_label {self.ignore_label} is also a {kind} index; choose one of at "
                f"least {len(names)}"
            )

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any class, order, seen/unseen split or ignore label."""
        return _digest([self.classes, sorted(self.unseen), self.ignore_label])

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """What a text tower reads of each class where no template is used: here the name itself."""
        return self.classes

    @cached_property
    def seen_ids(self) -> tuple[int, ...]:
        """Indices of the classes that training may show."""
        return tuple(i for i, name in enumerate(self.classes) if name not in self.unseen)

    @cached_property
    def unseen_ids(self) -> tuple[int, ...]:
        """Indices of the classes held out from training."""
        return tuple(i for i, name in enumerate(self.classes) if name in self.unseen)

    @cached_property
    def seen(self) -> Vocabulary:
        """The vocabulary of zero-shot training: seen classes; new ids are ranks in the old order."""
        classes = tuple(self.classes[i] for i in self.seen_ids)
        return Vocabulary(f"{self.name}_seen", classes, frozenset(), self.ignore_label, self._seen_title)

    @property
    def _seen_title(self) -> str:
        return f"{self.title}, seen classes" if self.title else ""

    def is_seen(self, class_id: int) -> bool:
        """Whether the class may be shown in training."""
        return self.classes[class_id] not in self.unseen

    def class_id(self, name: str) -> int:
        """Index of a class. Raises UnknownClassError with the nearest name when it is not there."""
        return self._find(name, self.classes, "class")

    def table(self, target: Vocabulary) -> np.ndarray:
        """Look-up table from this vocabulary's labels to ``target``'s.

        Returns:
            int64 array of length ``ignore_label + 1``; labels whose name ``target`` lacks, and the ignore label, become
            ``target.ignore_label``. Apply it as ``table[label_map]``.
        """
        return self._table(self.classes, target.classes, target.ignore_label)

    def _table(self, old: Sequence[str], new: Sequence[str], new_ignore: int) -> np.ndarray:
        new_ids = {name: index for index, name in enumerate(new)}
        table = np.full(self.ignore_label + 1, new_ignore, np.int64)
        table[: len(old)] = [new_ids.get(name, new_ignore) for name in old]
        return table

    def _find(self, name: str, names: Sequence[str], kind: str) -> int:
        if name in names:
            return names.index(name)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownClassError(f"vocabulary {self.name!r} has no {kind} {name!r}{hint}")


def _digest(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

"""What a dataset reader yields: records, and the one error that wrong data raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ovparts_lib.vocabularies import PartVocabulary

if TYPE_CHECKING:
    from ovparts_lib.data.scan import LabelCounts


class DatasetError(ValueError):
    """A dataset on disk is not what it should be: the message says which file, what is wrong, and what to do.

    Args:
        what: what is wrong, without a full stop.
        file: the file or folder it concerns; put in front of the message.
        what_to_do: one sentence for the person who reads the message.
    """

    def __init__(self, what: str, *, file: str | Path | None = None, what_to_do: str = "") -> None:
        self.file = None if file is None else str(file)
        self.what = what
        self.what_to_do = what_to_do
        super().__init__((f"{self.file}: " if self.file else "") + what + (f". {what_to_do}" if what_to_do else ""))


@dataclass(frozen=True)
class Record:
    """One line of a split listing.

    Attributes:
        image_path: the picture.
        part_path: its part labels.
        object_path: its object labels; None where a dataset derives them from other annotations.
        image_id: base name of the picture without extension.
        object_id: the object this record is conditioned on, in the dataset's full vocabulary; None for the whole image.
        instance: which instance of the object, where a dataset conditions on instances; None for all of them.
    """

    image_path: Path
    part_path: Path
    object_path: Path | None
    image_id: str
    object_id: int | None = None
    instance: int | None = None


class Reader(Protocol):
    """What the datasets ask of a reader; each dataset on disk has one reader of this shape.

    A reader knows files and formats. Remapping to the training vocabulary, conditioning on an object and the
    transforms are the datasets' (:mod:`ovparts_lib.data.dataset`), the same for every reader.

    Attributes:
        root: the dataset's folder.
    """

    root: Path

    @property
    def vocabulary(self) -> PartVocabulary:
        """The full vocabulary, whose ids the label maps hold."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits it lists."""

    def records(self, split: str) -> list[Record]:
        """The records of a split in listing order, those without part pixels included."""

    def training_vocabulary(self, split: str) -> PartVocabulary:
        """The vocabulary that a split is trained with: seen classes only, or all of them."""

    def label_maps(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """(object map, part map) of the record's whole image at native size, unsigned, in full-vocabulary ids."""

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """The pixels a conditioned record is about, bool (H, W): its object in ``object_map``, or its own instance.

        ``object_map`` is what :meth:`label_maps` gave for the same image.
        """

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record of the split has a pixel of one of ``part_ids``, on its own object if conditioned."""

    def scan(self, split: str) -> LabelCounts:
        """Pixels of each (object, part) pair in each image of the split; one decode per label file, cached."""

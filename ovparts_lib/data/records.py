"""What a dataset reader yields: records, and the one error that wrong data raises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class DatasetError(ValueError):
    """A dataset on disk is not what it should be: the message says which file, what is wrong, and what to do.

    Args:
        what: what is wrong, without a full stop.
        file: the file or folder it concerns; put in front of the message.
        what_to_do: one sentence for the person who reads the message.
    """

    def __init__(self, what: str, *, file: str | Path | None = None, what_to_do: str = "") -> None:
        # File names are bytes: one that is not UTF-8 must not keep the message from being printed.
        self.file = None if file is None else str(file).encode("utf-8", "backslashreplace").decode()
        self.what = what.encode("utf-8", "backslashreplace").decode()
        self.what_to_do = what_to_do
        super().__init__(
            (f"{self.file}: " if self.file else "") + self.what + (f". {what_to_do}" if what_to_do else "")
        )


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

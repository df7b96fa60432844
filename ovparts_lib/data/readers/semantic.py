"""Object-level benchmarks (OVSeg, SCAN): one class label per pixel, in the folders that their users have on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovparts_lib.data.files import DatasetError, Record
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.registry import DATASETS, Files, SemanticFolder
from ovparts_lib.data.scan import count_labels


class SemanticReader(Reader):
    """Reader of every object-level benchmark: 8-bit PNG or 16-bit TIFF labels beside JPEG pictures.

    Files are paired by base name; a picture without labels is of no use and no fault. The depth of the label files
    follows from the vocabulary: 8 bits where its ignore label is 255, 16 bits where it is 65535. A split whose label
    folder is not there is not offered, as long as another one is.

    Args:
        root: the benchmark's folder.
        name: which benchmark.
        places: where its splits lie; those of the registry by default.
        **options: see :class:`~ovparts_lib.data.readers.base.Reader`.
    """

    label_kinds = ("label",)
    background_share = 0.9

    def __init__(
        self, root: str | Path, *, name: str, places: Mapping[str, SemanticFolder] | None = None, **options: Any
    ) -> None:
        self.name = name
        places = places or DATASETS[name].places
        super().__init__(root, **options)
        self.places: Mapping[str, SemanticFolder] = {
            split: place for split, place in places.items() if (self.root / place.labels).is_dir()
        } or places
        self.settings = {split: self.settings[split] for split in self.places}
        self.folders = {split: split for split in self.places}
        deep = self.vocabulary.ignore_label > 255
        self.dtype = np.uint16 if deep else np.uint8
        self.kinds = {
            "image": Files("", (".jpg", ".jpeg")),
            "label": Files("", (".tif", ".tiff") if deep else (".png",)),
        }

    def folder(self, kind: str, name: str) -> Path:
        """Folder of the pictures (``image``) or labels (``label``) of a split."""
        place = self.places[name]
        return self.root / (place.images if kind == "image" else place.labels)

    def missing(self, path: Path, what: str = "no such folder") -> DatasetError:
        """The error for a folder that is not there; label folders are made by ``ovparts prepare``."""
        error = super().missing(path, what)
        if path in {self.folder("label", split) for split in self.places} and "seems to be" not in error.what_to_do:
            advice = f"Label files are derived from the official ones: ovparts prepare {self.name} SOURCE {self.root}."
            return DatasetError(path, what, advice)
        return error

    def count(self, record: Record, label_map: np.ndarray) -> dict[str, np.ndarray]:
        """Pixels of each class; in the table of a scan both columns hold the class."""
        return {"rows": count_labels(label_map, label_map)}

"""Object-level benchmarks (OVSeg, SCAN): one class label per pixel, in the folders that their users have on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ovparts_lib.data.labels import check_label_range, read_labels
from ovparts_lib.data.readers.base import Files, Reader
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts, count_labels
from ovparts_lib.data.splits import Split
from ovparts_lib.data.verification_report import Folder, Published, VerificationReport


@dataclass(frozen=True)
class SemanticFolder:
    """Where a split of a benchmark lies.

    Attributes:
        images: folder of the pictures, which may hold more than the split's.
        labels: folder of the derived label files.
        published: number of images, where it is known.
    """

    images: str
    labels: str
    published: Published | None = None


_DESCRIBED = "data description of OVSeg"
# Names below the folder that the registry gives: label files as the scripts of OVSeg and SCAN write them.
LAYOUTS: dict[str, dict[str, SemanticFolder]] = {
    "coco_stuff_171": {
        "train": SemanticFolder("train2017", "stuffthingmaps_detectron2/train2017", Published(118_287, "COCO 2017")),
        "val": SemanticFolder("val2017", "stuffthingmaps_detectron2/val2017", Published(5_000, "COCO 2017")),
    },
    "ade20k_150": {
        "train": SemanticFolder("images/training", "annotations_detectron2/training", Published(20_210, "ADE20K")),
        "val": SemanticFolder("images/validation", "annotations_detectron2/validation", Published(2_000, _DESCRIBED)),
    },
    "ade20k_847": {
        "train": SemanticFolder("images_detectron2/training", "annotations_detectron2/training"),
        "val": SemanticFolder(
            "images_detectron2/validation", "annotations_detectron2/validation", Published(2_000, _DESCRIBED)
        ),
    },
    "pascal_context_59": {
        "val": SemanticFolder("JPEGImages", "annotations_detectron2/pc59_val", Published(5_104, "Pascal-Context"))
    },
    "pascal_context_459": {
        "val": SemanticFolder("JPEGImages", "annotations_detectron2/pc459_val", Published(5_104, "Pascal-Context"))
    },
    "pascal_voc_20": {
        "val": SemanticFolder("JPEGImages", "annotations_detectron2/val", Published(1_449, "PASCAL VOC 2012"))
    },
}


class SemanticReader(Reader):
    """Reader of every object-level benchmark in ``LAYOUTS``: 8-bit PNG or 16-bit TIFF labels beside JPEG pictures.

    Files are paired by base name; a picture without labels is of no use and no fault. The depth of the label files
    follows from the vocabulary: 8 bits where its ignore label is 255, 16 bits where it is 65535. A split whose label
    folder is not there is not offered, as long as another one is.

    Args:
        root: the benchmark's folder.
        name: which benchmark.
        places: where its splits lie; those of ``LAYOUTS`` by default.
        **options: see :class:`~ovparts_lib.data.readers.base.Reader`.
    """

    label_kinds = ("label",)
    background_share = 0.9
    splits_of: ClassVar = {"train": Split("train"), "val": Split("val")}

    def __init__(
        self, root: str | Path, *, name: str, places: Mapping[str, SemanticFolder] | None = None, **options: Any
    ) -> None:
        self.name = name
        places = places or LAYOUTS[name]
        self.layout = ", ".join(f"{place.images} and {place.labels}" for place in places.values())
        super().__init__(root, **options)
        self.places: Mapping[str, SemanticFolder] = {
            split: place for split, place in places.items() if (self.root / place.labels).is_dir()
        } or places
        self.settings = {split: self.splits_of[split] for split in self.places}
        self.folders = {split: split for split in self.places}
        deep = self.vocabulary.ignore_label > 255
        self.dtype = np.uint16 if deep else np.uint8
        self.kinds = {
            "image": Files("", (".jpg", ".jpeg")),
            "label": Files("", (".tif", ".tiff") if deep else (".png",)),
        }
        self.published = {split: place.published for split, place in self.places.items() if place.published}

    def folder(self, kind: str, name: str) -> Path:
        """Folder of the pictures (``image``) or labels (``label``) of a split."""
        place = self.places[name]
        return self.root / (place.images if kind == "image" else place.labels)

    def no_folder(self, folder: Path) -> DatasetError:
        """The error for a folder that is not there; label folders are made by ``ovparts prepare``."""
        error = super().no_folder(folder)
        if folder in {self.folder("label", split) for split in self.places} and "seems to be" not in error.what_to_do:
            advice = f"Label files are derived from the official ones: ovparts prepare {self.name} SOURCE {self.root}."
            return DatasetError(error.what, file=folder, what_to_do=advice)
        return error

    def pairs(self, name: str) -> list[Record]:
        """One record per image of the split that has a label file, sorted by base name.

        Raises:
            DatasetError: a folder is missing, or holds no such image.
        """
        images, labels = self.files("image", name), self.files("label", name)
        shared = [stem for stem in images if stem in labels]
        if not shared:
            raise DatasetError(
                f"no image has a label file of the same base name ({len(images)} images, {len(labels)} label files)",
                file=self.folder("label", name),
                what_to_do=f"Labels of {self.title} are *{self.kinds['label'].suffixes[0]} there.",
            )
        return [Record(images[stem], labels[stem], None, stem) for stem in shared]

    def records(self, split: str) -> list[Record]:
        """The records of a split, one per image. Raises DatasetError as :meth:`pairs`."""
        return self.pairs(self.split(split).folder)

    def label_maps(self, record: Record) -> tuple[np.ndarray]:
        """The one label map of the record's image, uint8 or uint16 (H, W); DatasetError as :meth:`read_label`."""
        return (self.read_label(record, "label"),)

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """The label map; ``kind`` is ``label``.

        Raises:
            DatasetError: the file is missing, damaged, of another depth, or of another class list.
        """
        labels = read_labels(record.part_path, self.dtype)
        check_label_range(labels, len(self.vocabulary.classes), self.vocabulary.ignore_label, record.part_path, "class")
        return labels

    def count(self, record: Record, label_map: np.ndarray) -> dict[str, np.ndarray]:
        """Pixels of each class; in the table of a scan both columns hold the class."""
        return {"rows": count_labels(label_map, label_map)}

    def origin(self, record: Record, kind: str) -> Path:
        """The file that a picture or label map is read from."""
        return record.image_path if kind == "image" else record.part_path

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Images without any labelled pixel."""
        classes = range(len(self.vocabulary.classes))
        return {"samples without any label": sum(not labels.has_part(i, classes) for i in labels.image_ids)}

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """Nothing: there are no lists."""

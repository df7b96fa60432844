"""Pascal-Part-116 (OV-PARTS, NeurIPS 2023 datasets track), read from the folders as they are released."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from ovparts_lib.data.labels import check_label_range, check_same_size, read_labels
from ovparts_lib.data.readers.base import Files, Reader
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts
from ovparts_lib.data.splits import Split
from ovparts_lib.data.verification_report import Published

_PAPERS = "OV-PARTS and PartCLIPSeg papers"


class PascalPart116(Reader):
    """Reader of the released layout.

    ::

        root/images/{train,val}/<id>.jpg
        root/annotations_detectron2_obj/{train,val}/<id>.png     8-bit, object ids, 255 without label
        root/annotations_detectron2_part/{train,val}/<id>.png    8-bit, part ids, 255 without label
        root/train_16shot.json                                   for train_few_shot only, unless a list is drawn

    Files are paired by base name; hidden files (``._*`` of macOS archives) are ignored. Which objects an image holds is
    counted from the label files, so the generated ``*_obj_label_count.json`` files are not needed. Unseen classes are
    labelled in the training files as released: the training vocabulary's remap takes them out.
    """

    name = "pascal_part_116"
    layout = "images, annotations_detectron2_obj and annotations_detectron2_part, each with train and val"
    settings: ClassVar = {
        "train": Split("train", seen_only=True),
        "train_obj_condition": Split("train", conditioned=True, seen_only=True),
        "train_few_shot": Split("train", few_shot=True),
        "val": Split("val"),
        "val_obj_condition": Split("val", conditioned=True),
    }
    kinds: ClassVar = {
        "image": Files("images", (".jpg",)),
        "object": Files("annotations_detectron2_obj", (".png",)),
        "part": Files("annotations_detectron2_part", (".png",)),
    }
    dtype: type[np.unsignedinteger] = np.uint8
    published: ClassVar = {"train": Published(8431, _PAPERS, about=True), "val": Published(850, _PAPERS, about=True)}

    def pairs(self, name: str) -> list[Record]:
        """One record per image of ``train`` or ``val`` that has a part label file, sorted by base name.

        Raises:
            DatasetError: a folder is missing, or holds no such image.
        """
        images, parts = self.files("image", name), self.files("part", name)
        objects = self.folder("object", name) if "object" in self.kinds else None
        shared = [stem for stem in images if stem in parts]
        if not shared:
            raise DatasetError(
                f"no image has a part label of the same base name ({len(images)} images, {len(parts)} label files)",
                file=self.folder("part", name),
                what_to_do="Unpack images and labels again.",
            )
        return [Record(images[stem], parts[stem], objects and objects / f"{stem}.png", stem) for stem in shared]

    def records(self, split: str) -> list[Record]:
        """The records of a split.

        Conditioned splits have one record per image and object id of its object map, ids ascending, whether or not the
        object has part pixels: the datasets skip those without and count them.

        Raises:
            DatasetError: a folder or the 16-shot list is missing or empty, or a label file is wrong.
        """
        asked = self.split(split)
        records = self.pairs(asked.folder)
        if asked.few_shot:
            records = self.in_few_shot_list(records)
        if asked.conditioned:
            counts, ignore = self.scan(split), self.vocabulary.ignore_label
            records = [
                replace(record, object_id=object_id)
                for record in records
                for object_id in counts.objects_in(record.image_id, ignore)
            ]
        return records

    def label_maps(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """(object map, part map) of an image, both uint8 (H, W); of one size, else DatasetError."""
        object_map, part_map = self.read_label(record, "object"), self.read_label(record, "part")
        check_same_size(self.origin(record, "object"), object_map.shape, record.part_path, part_map.shape)
        return object_map, part_map

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map, uint8 (H, W); ``kind`` is ``object`` or ``part``."""
        classes = self.vocabulary.objects if kind == "object" else self.vocabulary.parts
        path = self.origin(record, kind)
        labels = read_labels(path, self.dtype)
        check_label_range(labels, len(classes), self.vocabulary.ignore_label, path, kind)
        return labels

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples and (image, object) records, and how many have no part."""
        parts = range(len(self.vocabulary.parts))
        conditions = [(i, o) for i in labels.image_ids for o in labels.objects_in(i, self.vocabulary.ignore_label)]
        return super().count_records(name, labels) | {
            "(image, object) records": len(conditions),
            "records without part pixels": sum(not labels.has_part(i, parts, o) for i, o in conditions),
        }

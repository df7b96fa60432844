"""Pascal-Part-116 (OV-PARTS, NeurIPS 2023 datasets track), read from the folders as they are released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.few_shot import FewShotSplits
from ovparts_lib.data.labels import check_label_range, check_same_size, read_labels
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts, count_labels, parallel_map
from ovparts_lib.data.splits import Split, find_split
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

FOLDERS = ("train", "val")
TITLE = "Pascal-Part-116"
LAYOUT = "images, annotations_detectron2_obj and annotations_detectron2_part, each with train and val"


SPLITS = {
    "train": Split("train", seen_only=True),
    "train_obj_condition": Split("train", conditioned=True, seen_only=True),
    "train_few_shot": Split("train", few_shot=True),
    "val": Split("val"),
    "val_obj_condition": Split("val", conditioned=True),
}


class PascalPart116(FewShotSplits):
    """Reader of the released layout.

    ::

        root/images/{train,val}/<id>.jpg
        root/annotations_detectron2_obj/{train,val}/<id>.png     8-bit, object ids, 255 without label
        root/annotations_detectron2_part/{train,val}/<id>.png    8-bit, part ids, 255 without label
        root/train_16shot.json                                   for train_few_shot only, unless a list is drawn

    Files are paired by base name; hidden files (``._*`` of macOS archives) are ignored. Which objects an image holds is
    counted from the label files, so the generated ``*_obj_label_count.json`` files are not needed.

    Args:
        root: the folder that holds ``images``.
        cache_folder: where label counts are kept between calls; ``root/.ovparts_cache`` by default. A folder that
            cannot be written costs the time of counting again, with a warning, and nothing else.
        progress: show a progress bar while counting.

    Raises:
        DatasetError: ``root`` is not a folder.
    """

    def __init__(self, root: str | Path, *, cache_folder: str | Path | None = None, progress: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.cache_folder = self.root / ".ovparts_cache" if cache_folder is None else Path(cache_folder).expanduser()
        self.progress = progress
        self._scans: dict[str, LabelCounts] = {}
        if not self.root.is_dir():
            raise DatasetError(
                "no such folder", file=self.root, what_to_do=f"Pascal-Part-116 is expected there: {LAYOUT}."
            )

    @cached_property
    def vocabulary(self) -> PartVocabulary:
        """All 20 objects and 116 parts."""
        return load_vocabulary("pascal_part_116")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; see ``SPLITS``."""
        return tuple(SPLITS)

    def split(self, name: str) -> Split:
        """How a split is listed. Raises ValueError naming the splits there are."""
        return find_split(SPLITS, name, TITLE)

    def training_vocabulary(self, split: str) -> PartVocabulary:
        """Seen classes for ``train`` and ``train_obj_condition``, all classes for the others."""
        return self.vocabulary.seen if self.split(split).seen_only else self.vocabulary

    def folder(self, kind: str, name: str) -> Path:
        """Folder of one kind of file (``image``, ``object``, ``part``) of ``train`` or ``val``."""
        parents = {
            "image": "images",
            "object": "annotations_detectron2_obj",
            "part": "annotations_detectron2_part",
        }
        return self.root / parents[kind] / name

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """``{base name: file}`` of one folder, sorted by base name, hidden files left out.

        Raises:
            DatasetError: the folder is missing.
        """
        folder, suffix = self.folder(kind, name), ".jpg" if kind == "image" else ".png"
        if not folder.is_dir():
            inside = self.root / "PascalPart116"
            raise DatasetError(
                "no such folder",
                file=folder,
                what_to_do=f"The dataset seems to be {inside}: give that folder."
                if inside.is_dir()
                else f"Unpack Pascal-Part-116 into {self.root}: {LAYOUT}.",
            )
        found = [p for p in folder.iterdir() if p.suffix.lower() == suffix and not p.name.startswith(".")]
        return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}

    def pairs(self, name: str) -> list[Record]:
        """One record per image of ``train`` or ``val`` that has a part label file, sorted by base name.

        Raises:
            DatasetError: a folder is missing, or holds no such image.
        """
        images, parts = self.files("image", name), self.files("part", name)
        objects = self.folder("object", name)
        shared = [stem for stem in images if stem in parts]
        if not shared:
            raise DatasetError(
                f"no image has a part label of the same base name ({len(images)} images, {len(parts)} label files)",
                file=self.folder("part", name),
                what_to_do="Unpack images and labels again.",
            )
        return [Record(images[stem], parts[stem], objects / f"{stem}.png", stem) for stem in shared]

    def records(self, split: str) -> list[Record]:
        """The records of a split; see ``SPLITS``.

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
        """(object map, part map) of an image, both uint8 (H, W) with ids of the full vocabulary.

        Raises:
            DatasetError: a file is missing, damaged, not 8-bit, or holds a value out of range; the sizes differ.
        """
        object_map, part_map = self.read_label(record, "object"), self.read_label(record, "part")
        check_same_size(record.object_path, object_map.shape, record.part_path, part_map.shape)
        return object_map, part_map

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """Where the record's object is, bool (H, W): records are (image, object class) pairs."""
        return object_map == record.object_id

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map, uint8 (H, W); ``kind`` is ``object`` or ``part``. Raises DatasetError as label_maps does."""
        classes = self.vocabulary.objects if kind == "object" else self.vocabulary.parts
        path = record.object_path if kind == "object" else record.part_path
        labels = read_labels(path, np.uint8)
        check_label_range(labels, len(classes), self.vocabulary.ignore_label, path, kind)
        return labels

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record of the split has a pixel of one of ``part_ids``, on its own object if it is conditioned."""
        return self.scan(split).has_part(record.image_id, part_ids, record.object_id)

    def scan(self, split: str) -> LabelCounts:
        """Label counts of all images of the split's folder.

        A reader counts once; a new reader takes the counts from the cache if no label file has changed since.

        Raises:
            DatasetError: as label_maps, for the first wrong file.
        """
        name = self.split(split).folder
        if name in self._scans:
            return self._scans[name]
        records = self.pairs(name)
        stored = read_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(records))
        if stored is not None:
            rows = np.array(stored["rows"], np.int64).reshape(-1, 4)
            self._scans[name] = LabelCounts(tuple(stored["image_ids"]), rows)
            return self._scans[name]
        tables = parallel_map(
            lambda record: self.count(record, *self.label_maps(record)),
            records,
            progress=self.progress,
            what=f"counting labels of {name}",
        )
        return self.keep_scan(name, dict(zip((record.image_id for record in records), tables, strict=True)))

    def count(self, record: Record, object_map: np.ndarray, part_map: np.ndarray) -> np.ndarray:
        """What :meth:`scan` keeps of an image: :func:`~ovparts_lib.data.scan.count_labels` of its label maps."""
        return count_labels(object_map, part_map)

    def keep_scan(self, name: str, tables: dict[str, np.ndarray]) -> LabelCounts:
        """Take over label counts of ``train`` or ``val`` that a full pass over the files has made, and cache them."""
        counts = self._scans[name] = LabelCounts.from_images(tables)
        value = {"image_ids": counts.image_ids, "rows": counts.rows.tolist()}
        write_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(self.pairs(name)), value)
        return counts

    def _scan_key(self, records: list[Record]) -> str:
        files = [path for record in records for path in (record.part_path, record.object_path)]
        try:
            return files_key(files, self.root, self.vocabulary.hash)
        except FileNotFoundError as error:
            raise DatasetError(
                "no such file, but the image and its part labels are there",
                file=error.filename,
                what_to_do="Unpack the object labels again.",
            ) from None

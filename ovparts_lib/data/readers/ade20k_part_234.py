"""ADE20K-Part-234 (OV-PARTS, NeurIPS 2023 datasets track), read from the files as they are released."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.coco_instances import CocoFile, CocoImage, CocoInstance, rasterise, rasterise_columns, read_coco
from ovparts_lib.data.few_shot import FewShotSplits
from ovparts_lib.data.labels import check_label_range, check_same_size, read_labels
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts, count_labels, parallel_map
from ovparts_lib.data.splits import Split, find_split
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

TITLE = "ADE20K-Part-234"
FOLDERS = {"train": "training", "val": "validation"}
IMAGES, PARTS = "images", "annotations_detectron2_part"
MARKER = "built_from_source.json"  # in a dataset that was built from the full release of ADE20K
LAYOUT = (
    f"{IMAGES} and {PARTS}, each with training and validation, and ade20k_instance_train.json and "
    "ade20k_instance_val.json"
)


@dataclass(frozen=True)
class AdeSplit(Split):
    """How a split of ADE20K-Part-234 is listed; conditioned splits have one record per object instance.

    Attributes:
        unseen_of_training: after its own records, every instance of an unseen object in the training images.
        without_shots: of these training images, leave out those of the 16-shot list.
    """

    unseen_of_training: bool = False
    without_shots: bool = False


SPLITS = {
    "train": AdeSplit("train", seen_only=True),
    "train_obj_condition": AdeSplit("train", conditioned=True, seen_only=True),
    "train_few_shot": AdeSplit("train", conditioned=True, few_shot=True),
    "val_obj_condition": AdeSplit("val", conditioned=True, unseen_of_training=True),
    "val_few_shot": AdeSplit("val", conditioned=True, unseen_of_training=True, without_shots=True),
}


class ADE20KPart234(FewShotSplits):
    """Reader of the released layout.

    ::

        root/images/{training,validation}/<name>.jpg
        root/annotations_detectron2_part/{training,validation}/<name>.png    16-bit, part ids, 65535 without label
        root/ade20k_instance_{train,val}.json                                object instances in the format of COCO
        root/train_16shot.json                                               for the few-shot splits only, or drawn

    The images of a split are those its JSON lists, by ascending id. The object map of an image is painted from its
    instances in file order, later ones over earlier ones; a record's region is its own instance, whole.

    Args:
        root: the folder that holds ``images``.
        cache_folder: where label counts are kept between calls; ``root/.ovparts_cache`` by default. A folder that
            cannot be written costs the time of counting again, with a warning, and nothing else.
        progress: show a progress bar while counting.

    Raises:
        DatasetError: ``root`` is not a folder.
    """

    few_shot_folder = FOLDERS["train"]

    def __init__(self, root: str | Path, *, cache_folder: str | Path | None = None, progress: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.cache_folder = self.root / ".ovparts_cache" if cache_folder is None else Path(cache_folder).expanduser()
        self.progress = progress
        self._files: dict[str, CocoFile] = {}
        self._images: dict[str, dict[str, CocoImage]] = {}
        self._scans: dict[str, tuple[LabelCounts, LabelCounts]] = {}
        if not self.root.is_dir():
            raise DatasetError("no such folder", file=self.root, what_to_do=f"{TITLE} is expected there: {LAYOUT}.")

    @cached_property
    def vocabulary(self) -> PartVocabulary:
        """All 44 objects and 234 parts."""
        return load_vocabulary("ade20k_part_234")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; see ``SPLITS``."""
        return tuple(SPLITS)

    def split(self, name: str) -> AdeSplit:
        """How a split is listed. Raises ValueError naming the splits there are."""
        return find_split(SPLITS, name, TITLE)

    def training_vocabulary(self, split: str) -> PartVocabulary:
        """Seen classes for ``train`` and ``train_obj_condition``, all classes for the others."""
        return self.vocabulary.seen if self.split(split).seen_only else self.vocabulary

    def folder(self, kind: str, name: str) -> Path:
        """Folder of one kind of file (``image``, ``part``) of ``train`` or ``val``."""
        return self.root / {"image": IMAGES, "part": PARTS}[kind] / FOLDERS[name]

    def annotation_path(self, name: str) -> Path:
        """The instances of ``train`` or ``val``."""
        return self.root / f"ade20k_instance_{name}.json"

    def annotations(self, name: str) -> CocoFile:
        """The instances of ``train`` or ``val``, read once.

        Raises:
            DatasetError: the file is missing or wrong, or two pictures differ in nothing but their extension.
        """
        if name not in self._files:
            path = self.annotation_path(name)
            inside = self.root / "ADE20KPart234"
            if not path.exists() and inside.is_dir():
                raise DatasetError(
                    "no such file", file=path, what_to_do=f"The dataset seems to be {inside}: give that folder."
                )
            file = read_coco(path, len(self.vocabulary.objects))
            images = {_image_id(image): image for image in file.images}
            if len(images) < len(file.images):
                raise DatasetError("lists two pictures that differ in nothing but their extension", file=path)
            self._files[name], self._images[name] = file, images
        return self._files[name]

    def pairs(self, name: str) -> list[Record]:
        """One record per image of ``train`` or ``val``, by ascending image id. Raises DatasetError as annotations."""
        images, parts = self.folder("image", name), self.folder("part", name)
        return [
            Record(images / image.file_name, parts / f"{_image_id(image)}.png", None, _image_id(image))
            for image in self.annotations(name).images
        ]

    def records(self, split: str) -> list[Record]:
        """The records of a split; see ``SPLITS``.

        Conditioned splits have one record per instance in file order, whether or not it has part pixels: the datasets
        skip those without and count them. In a split that joins both folders, an image of training whose name is also
        in validation gets the id ``training/<name>``.

        Raises:
            DatasetError: an annotation file or the 16-shot list is missing, empty or wrong.
        """
        asked = self.split(split)
        records = self.pairs(asked.folder)
        if asked.few_shot:
            records = self.in_few_shot_list(records)
        if asked.conditioned:
            records = list(self._per_instance(asked.folder, records))
        if asked.unseen_of_training:
            records += self._unseen_of_training(without_shots=asked.without_shots)
        if not records:
            raise DatasetError("lists no instances of the dataset", file=self.annotation_path(asked.folder))
        return records

    def instances(self, name: str) -> list[Record]:
        """One record per instance of ``train`` or ``val``, by ascending image id, then in file order."""
        return list(self._per_instance(name, self.pairs(name)))

    def _per_instance(self, name: str, records: Iterable[Record]) -> Iterable[Record]:
        for record in records:
            for instance in self._images[name][record.image_id].instances:
                yield replace(record, object_id=instance.category_id, instance=instance.id)

    def _unseen_of_training(self, *, without_shots: bool) -> list[Record]:
        shots = self.few_shot_ids() if without_shots else set()
        unseen = set(self.vocabulary.unseen_object_ids)
        records = [record for record in self.pairs("train") if record.image_id not in shots]
        names = dict(zip(self._images["train"], self._joined_ids(), strict=True))
        return [
            replace(record, image_id=names[record.image_id])
            for record in self._per_instance("train", records)
            if record.object_id in unseen
        ]

    def _joined_ids(self) -> tuple[str, ...]:
        """Ids of all training images where they stand beside those of validation."""
        self.annotations("train"), self.annotations("val")
        return tuple(f"{FOLDERS['train']}/{i}" if i in self._images["val"] else i for i in self._images["train"])

    def label_maps(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """(object map, part map) of an image, both uint16 (H, W) with ids of the full vocabulary.

        Raises:
            DatasetError: the part file is missing, damaged, not 16-bit, of another size or out of range; an instance
                lies outside the image or is damaged.
        """
        part_map = self.read_label(record, "part")
        name, image = self._find(record)
        check_same_size(self.annotation_path(name), (image.height, image.width), record.part_path, part_map.shape)
        return self.read_label(record, "object"), part_map

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map, uint16 (H, W); ``kind`` is ``object`` or ``part``. Raises DatasetError as label_maps does."""
        ignore = self.vocabulary.ignore_label
        if kind == "part":
            labels = read_labels(record.part_path, np.uint16)
            check_label_range(labels, len(self.vocabulary.parts), ignore, record.part_path, kind)
            return labels
        name, image = self._find(record)
        object_map = np.full((image.height, image.width), ignore, np.uint16)
        for instance in image.instances:
            columns, inside = rasterise_columns(instance, image, self.annotation_path(name))
            object_map[:, columns][inside] = instance.category_id
        return object_map

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """The record's own instance, bool (H, W), whatever other instances stand in front of it."""
        name, image = self._find(record)
        return rasterise(_instance(image, record), image, self.annotation_path(name))

    def _find(self, record: Record) -> tuple[str, CocoImage]:
        """``train`` or ``val``, and the entry of the record's image in its annotations."""
        folder = record.image_path.relative_to(self.root / IMAGES)
        name = next(name for name, own in FOLDERS.items() if own == folder.parts[0])
        self.annotations(name)
        return name, self._images[name][folder.relative_to(folder.parts[0]).with_suffix("").as_posix()]

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record of the split has a pixel of one of ``part_ids``, on its own instance if conditioned."""
        name, image = self._find(record)
        whole, per_instance = self._scan_folder(name)
        if record.object_id is None:
            return whole.has_part(_image_id(image), part_ids)
        return per_instance.has_part(_image_id(image), part_ids, record.instance)

    def scan(self, split: str) -> LabelCounts:
        """Label counts of all images of the split's folder, objects as they are painted; of both folders, if it joins.

        A reader counts once; a new reader takes the counts from the cache if no file has changed since.

        Raises:
            DatasetError: as label_maps, for the first wrong file.
        """
        asked = self.split(split)
        counts = self._scan_folder(asked.folder)[0]
        if not asked.unseen_of_training:
            return counts
        return LabelCounts.joined(counts, LabelCounts(self._joined_ids(), self._scan_folder("train")[0].rows))

    def count(
        self, record: Record, object_map: np.ndarray, part_map: np.ndarray
    ) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """What a scan keeps of an image: pixels of each (object, part), and (instance, part, pixels) of each instance.

        The first is a table as of :func:`~ovparts_lib.data.scan.count_labels`; the second leaves pixels without a part
        label out, and counts instances whole where they overlap.
        """
        name, image = self._find(record)
        rows: list[tuple[int, int, int]] = []
        for instance in image.instances:
            columns, inside = rasterise_columns(instance, image, self.annotation_path(name))
            parts = part_map[:, columns][inside]
            pixels = np.bincount(parts[parts != self.vocabulary.ignore_label])
            rows += [(instance.id, int(part), int(pixels[part])) for part in np.flatnonzero(pixels)]
        return count_labels(object_map, part_map), rows

    def keep_scan(self, name: str, tables: dict[str, Any]) -> LabelCounts:
        """Take over what :meth:`count` gave for every image of ``train`` or ``val``, and cache it."""
        whole = LabelCounts.from_images({image_id: table for image_id, (table, _) in tables.items()})
        per_instance = LabelCounts.from_images({image_id: np.array(rows) for image_id, (_, rows) in tables.items()})
        self._scans[name] = whole, per_instance
        value = {
            "image_ids": whole.image_ids,
            "rows": whole.rows.tolist(),
            "instance_rows": per_instance.rows.tolist(),
        }
        write_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name), value)
        return whole

    def _scan_folder(self, name: str) -> tuple[LabelCounts, LabelCounts]:
        """Counts of whole images and, with instances in the place of objects, of each instance."""
        if name in self._scans:
            return self._scans[name]
        records = self.pairs(name)
        stored = read_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name))
        if stored is None:
            tables = parallel_map(
                lambda record: self.count(record, *self.label_maps(record)),
                records,
                progress=self.progress,
                what=f"counting labels of {name}",
            )
            self.keep_scan(name, dict(zip((record.image_id for record in records), tables, strict=True)))
        else:
            whole, per_instance = (
                LabelCounts(tuple(stored["image_ids"]), np.array(stored[rows], np.int64).reshape(-1, 4))
                for rows in ("rows", "instance_rows")
            )
            self._scans[name] = whole, per_instance
        return self._scans[name]

    def _scan_key(self, name: str) -> str:
        files = [self.annotation_path(name), *(record.part_path for record in self.pairs(name))]
        try:
            return files_key(files, self.root, self.vocabulary.hash)
        except FileNotFoundError as error:
            raise DatasetError(
                "no such file, but the instances of its image are there",
                file=error.filename,
                what_to_do="Unpack the part labels again.",
            ) from None


def _image_id(image: CocoImage) -> str:
    """Name of a picture without extension (with its folder, if the released one is divided)."""
    return PurePosixPath(image.file_name).with_suffix("").as_posix()


def _instance(image: CocoImage, record: Record) -> CocoInstance:
    return next(instance for instance in image.instances if instance.id == record.instance)

"""ADE20K-Part-234 (OV-PARTS, NeurIPS 2023 datasets track), read from the files as they are released."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ovparts_lib.data.coco_instances import CocoFile, CocoImage, rasterise, rasterise_columns, read_coco
from ovparts_lib.data.files import DatasetError, Record
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.registry import SHOTS_FILE
from ovparts_lib.data.scan import LabelCounts, count_labels
from ovparts_lib.data.verification_report import Folder, VerificationReport

MARKER = "built_from_source.json"  # in a dataset that was built from the full release of ADE20K


class ADE20KPart234(Reader):
    """Reader of the released layout.

    ::

        root/images/{training,validation}/<name>.jpg
        root/annotations_detectron2_part/{training,validation}/<name>.png    16-bit, part ids, 65535 without label
        root/ade20k_instance_{train,val}.json                                object instances in the format of COCO
        root/train_16shot.json                                               for the few-shot splits only, or drawn

    The images of a split are those its JSON lists, by ascending id. The object map of an image is painted from its
    instances in file order, later ones over earlier ones; a record's region is its own instance, whole.
    """

    name = "ade20k_part_234"
    dtype = np.uint16
    depth = 4
    shots_released = True

    def __init__(self, root: str | Path, **options: Any) -> None:
        super().__init__(root, **options)
        self._files: dict[str, CocoFile] = {}

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
            if not path.exists() and not path.is_symlink():
                raise self.missing(path, "no such file")
            file = read_coco(path, len(self.vocabulary.objects), self.refuse)
            if len(file.by_name) < len(file.images):
                self.refuse(DatasetError(path, "lists two pictures that differ in nothing but their extension"))
            self._files[name] = file
        return self._files[name]

    def pairs(self, name: str) -> list[Record]:
        """One record per image of ``train`` or ``val``, by ascending image id. Raises DatasetError as annotations."""
        images, parts = self.folder("image", name), self.folder("part", name)
        return [
            Record(images / image.file_name, parts / f"{image_id}.png", self.annotation_path(name), image_id)
            for image_id, image in self.annotations(name).by_name.items()
        ]

    def records(self, split: str) -> list[Record]:
        """The records of a split.

        Conditioned splits have one record per instance in file order, whether or not it has part pixels: the datasets
        skip those without and count them. In a split that joins both folders, an image of training whose name is also
        in validation gets the id ``training/<name>``.

        Raises:
            DatasetError: an annotation file or the 16-shot list is missing, empty or wrong.
        """
        records, listed = super().records(split), self.split(split)
        if listed.unseen_of_training:
            records += self._unseen_of_training(without_shots=listed.without_shots)
        if not records:
            raise DatasetError(self.annotation_path(listed.folder), "lists no instances of the dataset")
        return records

    def instances(self, name: str) -> list[Record]:
        """One record per instance of ``train`` or ``val``, by ascending image id, then in file order."""
        return self.conditioned(name, self.pairs(name))

    def conditioned(self, name: str, records: Iterable[Record]) -> list[Record]:
        """One record per instance of the records' images, in file order."""
        return [
            replace(record, object_id=instance.category_id, instance=instance.id)
            for record in records
            for instance in self.annotations(name).by_name[record.image_id].instances
        ]

    def _unseen_of_training(self, *, without_shots: bool) -> list[Record]:
        shots = self.few_shot_ids() if without_shots else set()
        unseen = set(self.vocabulary.unseen_object_ids)
        records = [record for record in self.pairs("train") if record.image_id not in shots]
        names = dict(zip(self.annotations("train").by_name, self._joined_ids(), strict=True))
        return [
            replace(record, image_id=names[record.image_id])
            for record in self.conditioned("train", records)
            if record.object_id in unseen
        ]

    def _joined_ids(self) -> tuple[str, ...]:
        """Ids of all training images where they stand beside those of validation."""
        train, val = (self.annotations(name).by_name for name in ("train", "val"))
        return tuple(f"{self.folders['train']}/{image_id}" if image_id in val else image_id for image_id in train)

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map, uint16 (H, W); ``kind`` is ``object`` or ``part``."""
        if kind == "part":
            return super().read_label(record, kind)
        name, image = self._find(record)
        object_map = np.full((image.height, image.width), self.vocabulary.ignore_label, np.uint16)
        for instance in image.instances:
            columns, inside = rasterise_columns(instance, image, self.annotation_path(name))
            object_map[:, columns][inside] = instance.category_id
        return object_map

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """The record's own instance, bool (H, W), whatever other instances stand in front of it."""
        name, image = self._find(record)
        instance = next(instance for instance in image.instances if instance.id == record.instance)
        return rasterise(instance, image, self.annotation_path(name))

    def _find(self, record: Record) -> tuple[str, CocoImage]:
        """``train`` or ``val``, and the entry of the record's image in its annotations."""
        folder = record.image_path.relative_to(self.root / self.kinds["image"].folder)
        name = next(name for name, own in self.folders.items() if own == folder.parts[0])
        image_id = folder.relative_to(folder.parts[0]).with_suffix("").as_posix()
        return name, self.annotations(name).by_name[image_id]

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record of the split has a pixel of one of ``part_ids``, on its own instance if conditioned."""
        name, image = self._find(record)
        counts = self.scan_folder(name)["rows" if record.object_id is None else "instance_rows"]
        return counts.has_part(image.name, part_ids, record.instance)

    def scan(self, split: str) -> LabelCounts:
        """Label counts of all images of the split's folder, objects as they are painted; of both folders, if it joins.

        Raises:
            DatasetError: as label_maps, for the first wrong file.
        """
        counts = super().scan(split)
        if not self.split(split).unseen_of_training:
            return counts
        return LabelCounts.joined(counts, LabelCounts(self._joined_ids(), self.scan_folder("train")["rows"].rows))

    def count(self, record: Record, object_map: np.ndarray, part_map: np.ndarray) -> dict[str, np.ndarray]:
        """What a scan keeps of an image: pixels of each (object, part), and (instance, part, pixels) of each instance.

        The second, ``instance_rows``, leaves pixels without a part label out, and counts instances whole where they
        overlap.
        """
        name, image = self._find(record)
        rows: list[tuple[int, int, int]] = []
        for instance in image.instances:
            columns, inside = rasterise_columns(instance, image, self.annotation_path(name))
            parts = part_map[:, columns][inside]
            pixels = np.bincount(parts[parts != self.vocabulary.ignore_label])
            rows += [(instance.id, int(part), int(pixels[part])) for part in np.flatnonzero(pixels)]
        return {"rows": count_labels(object_map, part_map), "instance_rows": np.array(rows, np.int64).reshape(-1, 3)}

    # Integrity checks

    def lists(self) -> list[Path]:
        """The instances, and the 16-shot list where there is one."""
        return [path for path in map(self.annotation_path, self.folders) if path.is_file()] + super().lists()

    def list_folder(self, name: str, report: VerificationReport) -> Folder:
        """Listed images that have picture and part labels; what lacks one is a problem, what is not listed a note."""
        files = {kind: set(self.files(kind, name).values()) for kind in self.kinds}
        try:
            annotations, records = self.annotations(name), self.pairs(name)
        except DatasetError as error:
            self.refuse(error)
            return Folder([], sorted(set().union(*files.values())), unlisted=sorted(files["image"]))
        if not annotations.images and not self._built:
            self.refuse(DatasetError(annotations.path, "lists no images"))
        there = files["image"] | files["part"]
        for record in records:
            for path, what in ((record.image_path, "picture"), (record.part_path, "part label file")):
                if path not in there and path.parent.is_dir():
                    self.refuse(DatasetError(path, f"no such {what}, but {annotations.path.name} lists it"))
        unused = sorted(there - {path for record in records for path in (record.image_path, record.part_path)})
        if unused:
            report.notes.append(f"{name}: files of no listed image, not used: {len(unused):,}, as {unused[0].name}")
        return Folder(
            records=[record for record in records if {record.image_path, record.part_path} <= there],
            files=sorted(there),
            unlisted=[path for path in unused if path in files["image"]] if report.blames(annotations.path) else [],
            counts={
                "listed images": len(annotations.images),
                **{f"{kind} files": len(paths) for kind, paths in files.items()},
                "object instances": annotations.instances,
                **annotations.dropped,
            },
        )

    @property
    def _built(self) -> bool:
        return (self.root / MARKER).is_file()

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples and instances, and how many have no part."""
        parts, unseen = range(len(self.vocabulary.parts)), set(self.vocabulary.unseen_object_ids)
        split = next(s for s, how in self.settings.items() if how.conditioned and how.folder == name)
        own = self.instances(name)
        return super().count_records(name, labels) | {
            "instances of unseen objects": sum(record.object_id in unseen for record in own),
            "instances without part pixels": sum(not self.has_part(split, record, parts) for record in own),
        }

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """Where the dataset comes from, the 16-shot list, and how the test sets are made up."""
        if self._built:
            report.notes.append(
                "built from the full release of ADE20K, not the archive that OV-PARTS released: pictures and instances "
                "were not chosen in the same way, and published scores are not comparable exactly"
            )
        super().check_rest(folders, report)
        for split, how in self.settings.items():
            if not how.unseen_of_training or (how.without_shots and not (self.root / SHOTS_FILE).is_file()):
                continue
            try:
                records = self.records(split)
            except DatasetError:  # the list or the annotations are wrong, which is reported already
                continue
            in_train = [r for r in records if r.image_path.is_relative_to(self.folder("image", "train"))]
            report.notes.append(
                f"{split}: {len(records):,} records in {len({r.image_path for r in records}):,} images, of which "
                f"{len(in_train):,} are instances of unseen objects in {len({r.image_path for r in in_train}):,} "
                "training images (as released: zero-shot training sees these images, with unseen classes ignored)"
            )

"""PartImageNet, read as it is downloaded or as the released preprocessing leaves it: 40 objects (Seg), or 128 (OOD)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ovparts_lib.data.coco_instances import rasterise, rasterise_columns
from ovparts_lib.data.files import DatasetError, Record
from ovparts_lib.data.partimagenet_listing import NO_PICTURE, Listing, Picture, Selection
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.scan import LabelCounts
from ovparts_lib.data.verification_report import Folder, VerificationReport

logger = logging.getLogger(__name__)

README = "README of PartImageNet"


class PartImageNet(Reader):
    """Reader of either selection; use :class:`PartImageNetSeg` or :class:`PartImageNetOOD`.

    ::

        root/images/{train,val}/<synset>_<n>.JPEG              flat, or in one folder for each synset; .jpeg, .jpg
        root/{train,val}.json                                  or root/annotations/{train,val}/{train,val}.json

    The object of a picture is its synset's, and its object map the union of its parts. Splits:

    - ``train``: a record for each picture of a seen object, trained with seen classes;
    - ``train_obj_condition``: one for each annotation of these, with all classes. The released code registers this by
      way of a condition that never holds, and no configuration uses it;
    - ``train_all``: one for each picture of the training folder, with all classes;
    - ``train_few_shot``: those of them in the few-shot list, with all classes. No list is released: draw one
      (:mod:`ovparts_lib.data.few_shot`);
    - ``val_obj_condition``: one for each picture of the validation folder.

    Args:
        root: the folder that holds ``images``.
        **options: see :class:`~ovparts_lib.data.readers.base.Reader`.
    """

    strict: ClassVar[bool]
    dtype = np.uint16
    depth = 2
    few_shot_source = "train_all"

    def __init__(self, root: str | Path, **options: Any) -> None:
        super().__init__(root, **options)
        self._listings: dict[str, Listing] = {}
        self._pictures: dict[Path, Picture] = {}
        self.selection = Selection(self.vocabulary, strict=self.strict, refuse=lambda error: self.refuse(error))

    def listing(self, name: str) -> Listing:
        """The pictures and annotations of ``train`` or ``val``, read once.

        Raises:
            DatasetError: as :meth:`~ovparts_lib.data.partimagenet_listing.Selection.read`.
        """
        if name not in self._listings:
            listing = self.selection.read(self.annotation_file(name), self.picture_files(name))
            self._listings[name] = listing
            self._pictures |= {picture.path: picture for picture in listing.pictures}
            if missing := listing.skipped.get(NO_PICTURE):
                logger.warning("%s: %d %s", listing.annotations.path, missing, NO_PICTURE)
        return self._listings[name]

    def annotation_file(self, name: str) -> Path:
        """Annotations of ``train`` or ``val``, at the root or where the download has them.

        Raises:
            DatasetError: the file is in neither place.
        """
        places = (self.root / f"{name}.json", self.root / "annotations" / name / f"{name}.json")
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise self.missing(places[0], f"no such file, nor {places[1]}")
        return found

    def picture_files(self, name: str) -> dict[str, Path]:
        """``{base name: path}`` of the pictures of ``train`` or ``val``, flat or in folders, hidden files left out.

        Raises:
            DatasetError: the folder is missing, or two pictures have one base name.
        """
        folder, pictures = self.folder("image", name), dict[str, Path]()
        if not folder.is_dir():
            raise self.missing(folder)
        for path in self.files("image", name).values():
            if (other := pictures.setdefault(path.stem, path)) is not path:
                self.refuse(DatasetError(path, f"has the same name as {other}", "Keep one of the two."))
        return pictures

    def pairs(self, name: str) -> list[Record]:
        """One record for each picture of the selection in ``train`` or ``val``, unseen objects included."""
        listing = self.listing(name)
        path = listing.annotations.path
        return [Record(picture.path, path, None, picture.path.stem) for picture in listing.pictures]

    def records(self, split: str) -> list[Record]:
        """The records of a split, by ascending image id in the annotation file.

        ``part_path`` is the annotation file, which is what labels are read from.

        Raises:
            DatasetError: as :meth:`listing`, or no few-shot list is in use, or it names no picture of the folder.
        """
        records = super().records(split)
        if not self.strict and split in ("train", "train_obj_condition"):
            seen = set(self.vocabulary.seen_object_ids)
            records = [record for record in records if self.picture(record).object_id in seen]
        if split != "train_obj_condition":
            return records
        return [replace(record, instance=i) for record in records for i in range(len(self.picture(record).part_ids))]

    def conditioned(self, name: str, records: Iterable[Record]) -> list[Record]:
        """Each picture's record with the picture's object."""
        return [replace(record, object_id=self.picture(record).object_id) for record in records]

    def label_maps(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """(object map, part map) of a picture, both uint16 (H, W); later annotations lie over earlier ones.

        Raises:
            DatasetError: an annotation is damaged or outside the picture.
        """
        picture, ignore = self.picture(record), self.vocabulary.ignore_label
        part_map = np.full((picture.image.height, picture.image.width), ignore, self.dtype)
        for instance, part_id in zip(picture.image.instances, picture.part_ids, strict=True):
            columns, inside = rasterise_columns(instance, picture.image, record.part_path)
            part_map[:, columns][inside] = part_id
        object_map = np.where(part_map == ignore, ignore, picture.object_id).astype(np.uint16)
        return object_map, part_map

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map, uint16 (H, W); ``kind`` is ``object`` or ``part``."""
        return self.label_maps(record)[self.label_kinds.index(kind)]

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """Where the record's object is, bool (H, W), or the one annotation it is about."""
        if record.instance is None:
            return super().region(record, object_map)
        picture = self.picture(record)
        return rasterise(picture.image.instances[record.instance], picture.image, record.part_path)

    def picture(self, record: Record) -> Picture:
        """The picture of a record, with its annotations."""
        if record.image_path not in self._pictures:
            self.listing(record.image_path.relative_to(self.root / "images").parts[0])
        return self._pictures[record.image_path]

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record has a pixel of one of ``part_ids``; one about an annotation, whether that is such a part."""
        if record.instance is not None:
            own = self.picture(record).part_ids[record.instance]
            part_ids = [part_id for part_id in part_ids if part_id == own]
        return self.scan(split).has_part(record.image_id, part_ids)

    # Integrity checks

    def lists(self) -> list[Path]:
        """Annotations, and the few-shot list where somebody has put one."""
        lists = super().lists()
        for name in self.folders:
            try:
                lists.append(self.annotation_file(name))
            except DatasetError as error:
                self.refuse(error)
        return lists

    def list_folder(self, name: str, report: VerificationReport) -> Folder:
        """The pictures of the selection; whatever is left out is a note, as are parts of another super-category."""
        files: list[Path] = []
        try:
            files = list(self.picture_files(name).values())
            listing = self.listing(name)
        except DatasetError as error:
            self.refuse(error)
            return Folder([], files, unlisted=files)
        report.notes += [f"{name}: {count:,} {what}" for what, count in sorted(listing.skipped.items())]
        if listing.unlisted:
            example = f"{len(listing.unlisted):,}, as {listing.unlisted[0].name}"
            report.notes.append(f"{name}: pictures without annotations, not used: {example}")
        there = {picture.object_id for picture in listing.pictures}
        self._check_objects(name, there, report)
        return Folder(
            records=self.pairs(name),
            files=files,
            unlisted=list(listing.unlisted) if report.blames(listing.annotations.path) else [],
            counts={
                "images in the annotation file": len(listing.annotations.images),
                "annotations": listing.annotations.instances,
                **dict(sorted(listing.skipped.items())),
                "pictures without annotations": len(listing.unlisted),
                "objects": len(there),
            },
        )

    def _check_objects(self, name: str, there: set[int], report: VerificationReport) -> None:
        """OOD trains seen objects only, and tests unseen ones only."""
        if not self.strict:
            return
        expected, other, kind = self.vocabulary.seen_object_ids, self.vocabulary.unseen_object_ids, "unseen"
        if name == "val":
            expected, other, kind = other, expected, "seen"
        if len(there) != len(expected):
            report.notes.append(f"{name}: {len(there)} objects; published are {len(expected)} ({README})")
        if wrong := there & set(other):
            names = ", ".join(sorted(self.vocabulary.objects[object_id] for object_id in wrong)[:5])
            report.notes.append(f"{name}: holds pictures of {len(wrong)} {kind} objects: {names}")

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples, and how many have no part."""
        seen = set(self.vocabulary.seen_object_ids)
        unseen = sum(picture.object_id not in seen for picture in self.listing(name).pictures)
        return super().count_records(name, labels) | {"samples of unseen objects": unseen}


class PartImageNetSeg(PartImageNet):
    """The 40-object selection: 147 parts; pictures of other synsets, and those that are not there, are left out."""

    name, strict = "partimagenet_seg", False


class PartImageNetOOD(PartImageNet):
    """The out-of-distribution split: 482 parts of 128 objects, the 19 unseen ones in the validation folder."""

    name, strict = "partimagenet_ood", True

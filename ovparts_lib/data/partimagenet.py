"""PartImageNet, read as it is downloaded or as the released preprocessing leaves it: 40 objects (Seg), or 128 (OOD).

The released preprocessing deletes the pictures of all other synsets and moves files. Here nothing on disk is changed:
which pictures belong to a split is decided while reading.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.coco_instances import CocoFile, CocoImage, rasterise, read_coco
from ovparts_lib.data.few_shot import FewShotSplits
from ovparts_lib.data.partimagenet_facts import PART_CATEGORIES, SYNSET_FILE, SYNSETS, generic_part, read_synset_file
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts, count_labels, parallel_map
from ovparts_lib.data.splits import Split, find_split
from ovparts_lib.vocabularies.vocabulary import Vocabulary, load_vocabulary

logger = logging.getLogger(__name__)

FOLDERS = ("train", "val")
LAYOUT = "images/{train,val}, and train.json and val.json beside it or in annotations/{train,val}"
SPLITS = {
    "train": Split("train", seen_only=True),
    "train_obj_condition": Split("train", conditioned=True),
    "train_all": Split("train"),
    "train_few_shot": Split("train", few_shot=True),
    "val_obj_condition": Split("val", conditioned=True),
}
OTHER_SYNSET = "images of synsets outside the selection, left out"
NO_PICTURE = "images whose picture file is missing, left out"
RULES = "1"  # part of the cache key: raise it when labels are painted differently


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the selection.

    Attributes:
        path: of the file.
        image: its annotations, one for each part (or piece of a part).
        object_id: its object, from the synset in the file name.
        part_ids: the part of each annotation.
    """

    path: Path
    image: CocoImage
    object_id: int
    part_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Folder:
    """What ``train`` or ``val`` holds.

    Attributes:
        annotations: the annotation file.
        pictures: those of the selection, by ascending id in the annotation file.
        skipped: what was left out, and how often.
        unlisted: picture files that the annotation file does not name.
    """

    annotations: CocoFile
    pictures: tuple[Picture, ...]
    skipped: Mapping[str, int]
    unlisted: int


class PartImageNet(FewShotSplits):
    """Reader of both selections; use :class:`PartImageNetSeg` or :class:`PartImageNetOOD`.

    ::

        root/images/{train,val}/<synset>_<n>.JPEG              flat, or in one folder for each synset
        root/{train,val}.json                                  or root/annotations/{train,val}/{train,val}.json
        root/LOC_synset_mapping.txt                            optional; also looked for beside root

    The object of a picture is its synset's; its object map is the union of its parts. Splits:

    ===================== ============================================== ================
    ``train``             pictures of seen objects                       seen classes
    ``train_obj_condition`` as ``train``, one record for each annotation all classes
    ``train_all``         all pictures of the training folder            all classes
    ``train_few_shot``    those of them in the few-shot list in use      all classes
    ``val_obj_condition`` pictures of the validation folder              all classes
    ===================== ============================================== ================

    No few-shot list is released: draw one (:mod:`ovparts_lib.data.few_shot`). ``train_obj_condition`` is what the
    released code registers under this name and no configuration uses: one annotated piece of a part at a time, with the
    remap to seen classes left out by mistake.

    Args:
        root: the folder that holds ``images``.
        synset_file: ImageNet's list of synsets; what the pictures' synsets mean is checked against it. By default the
            file is used if it is in ``root`` or beside it.
        cache_folder: where label counts are kept between calls; ``root/.ovparts_cache`` by default.
        progress: show a progress bar while counting.

    Raises:
        DatasetError: ``root`` is not a folder, or the synset list is not readable or contradicts what is known.
    """

    name: str
    title: str
    # Seg is a selection: other synsets, and pictures that are not there, are left out, as its preprocessing does.
    selects: bool
    few_shot_source = "train_all"

    def __init__(
        self,
        root: str | Path,
        *,
        synset_file: str | Path | None = None,
        cache_folder: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.cache_folder = self.root / ".ovparts_cache" if cache_folder is None else Path(cache_folder).expanduser()
        self.progress = progress
        self._folders: dict[str, Folder] = {}
        self._pictures: dict[Path, Picture] = {}
        self._scans: dict[str, LabelCounts] = {}
        if not self.root.is_dir():
            raise DatasetError(
                "no such folder", file=self.root, what_to_do=f"{self.title} is expected there: {LAYOUT}."
            )
        places = (self.root / SYNSET_FILE, self.root.parent / SYNSET_FILE) if synset_file is None else ()
        found = next((path for path in places if path.is_file()), None)
        self.synset_file = found if synset_file is None else Path(synset_file).expanduser()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All objects and parts of the selection."""
        return load_vocabulary(self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(SPLITS)

    def split(self, name: str) -> Split:
        """How a split is listed. Raises ValueError naming the splits there are."""
        return find_split(SPLITS, name, self.title)

    def training_vocabulary(self, split: str) -> Vocabulary:
        """Seen classes for ``train``, all classes for the others."""
        return self.vocabulary.seen if self.split(split).seen_only else self.vocabulary

    @cached_property
    def synsets(self) -> dict[str, str]:
        """``{synset: object}`` of the selection.

        Raises:
            DatasetError: the synset list is wrong, or gives an object another synset.
        """
        known = {synset: name for synset, name in SYNSETS.items() if name in self.vocabulary.objects}
        if self.synset_file is None:
            return known
        listed = read_synset_file(self.synset_file)
        for synset, name in known.items():
            others = [other for other, its_name in listed.items() if its_name == name and other not in SYNSETS]
            if listed.get(synset, name) != name or (synset not in listed and others):
                told = f"{synset} is {listed[synset]!r}" if synset in listed else f"{name!r} is {others[0]}"
                raise DatasetError(
                    f"{told}, but pictures of {name!r} are named {synset}",
                    file=self.synset_file,
                    what_to_do=f"Use ImageNet's own {SYNSET_FILE}.",
                )
        return {synset: name for synset, name in known.items() if synset in listed}

    @cached_property
    def _part_of(self) -> dict[tuple[int, int], int]:
        """Part id of each (object id, category id) that the vocabulary has."""
        names = {name: part_id for part_id, name in enumerate(self.vocabulary.parts)}
        table = {}
        for object_id, owner in enumerate(self.vocabulary.objects):
            for category_id in range(len(PART_CATEGORIES)):
                part_id = names.get(f"{owner}'s {generic_part(category_id)}")
                if part_id is not None:
                    table[object_id, category_id] = part_id
        return table

    def annotation_file(self, name: str) -> Path:
        """Annotations of ``train`` or ``val``, at the root or where the download has them.

        Raises:
            DatasetError: the file is in neither place.
        """
        places = (self.root / f"{name}.json", self.root / "annotations" / name / f"{name}.json")
        for path in places:
            if path.is_file():
                return path
        raise DatasetError(
            f"no such file, nor {places[1]}",
            file=places[0],
            what_to_do=f"Unpack {self.title} into {self.root}: {LAYOUT}.",
        )

    def picture_files(self, name: str) -> dict[str, Path]:
        """``{file name: path}`` of the pictures of ``train`` or ``val``, flat or in folders, hidden files left out.

        Raises:
            DatasetError: the folder is missing.
        """
        folder = self.root / "images" / name
        if not folder.is_dir():
            raise DatasetError(
                "no such folder", file=folder, what_to_do=f"Unpack {self.title} into {self.root}: {LAYOUT}."
            )
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        nested = (path for entry in entries if entry.is_dir() for path in sorted(entry.iterdir()))
        found = {path.name: path for path in nested if not path.name.startswith(".")}
        found |= {path.name: path for path in entries if not path.is_dir()}
        return {file: path for file, path in found.items() if path.suffix.lower() in (".jpeg", ".jpg")}

    def read_folder(self, name: str) -> Folder:
        """The pictures and annotations of ``train`` or ``val``.

        Raises:
            DatasetError: a file or folder is missing, or the annotations are wrong: ids, a part that the picture's
                object does not have, or, where nothing is selected, a synset outside the vocabulary or a missing
                picture.
        """
        if name in self._folders:
            return self._folders[name]
        annotations = read_coco(self.annotation_file(name), len(PART_CATEGORIES))
        self._check_categories(annotations)
        files, skipped, pictures = self.picture_files(name), Counter(annotations.dropped), []
        for image in annotations.images:
            file = PurePosixPath(image.file_name).name
            owner = self._object_of(file, annotations.path)
            if owner is None:
                skipped[OTHER_SYNSET] += 1
            elif file not in files:
                skipped[NO_PICTURE] += 1
                self._check_selects(f"{file} is listed, but not in images/{name}", annotations.path)
            else:
                object_id = self.vocabulary.object_id(owner)
                part_ids = self._part_ids(image, object_id, annotations.path)
                pictures.append(Picture(files[file], image, object_id, part_ids))
        if skipped[NO_PICTURE]:
            logger.warning("%s: %d %s", annotations.path, skipped[NO_PICTURE], NO_PICTURE)
        if not pictures:
            raise DatasetError(
                f"none of its {len(annotations.images)} images is a picture of the {len(self.synsets)} objects in "
                f"images/{name}",
                file=annotations.path,
                what_to_do="Unpack pictures and annotations again.",
            )
        listed = {PurePosixPath(image.file_name).name for image in annotations.images}
        folder = Folder(annotations, tuple(pictures), dict(+skipped), len(set(files) - listed))
        self._pictures |= {picture.path: picture for picture in pictures}
        self._folders[name] = folder
        return folder

    def records(self, split: str) -> list[Record]:
        """The records of a split, by ascending image id in the annotation file.

        ``part_path`` is the annotation file, which is what labels are read from.

        Raises:
            DatasetError: as :meth:`read_folder`, or no few-shot list is in use.
        """
        asked = self.split(split)
        folder, pictures = self.read_folder(asked.folder), self.read_folder(asked.folder).pictures
        if split in ("train", "train_obj_condition"):
            seen = set(self.vocabulary.seen_object_ids)
            pictures = tuple(picture for picture in pictures if picture.object_id in seen)
        if asked.few_shot:
            shots = self.few_shot_ids()
            pictures = tuple(picture for picture in pictures if picture.path.stem in shots)
            if not pictures:
                raise DatasetError("the few-shot list names no picture of the training folder", file=self.root)
            if len(pictures) < len(shots):
                logger.warning("few-shot list: %d of %d images are missing", len(shots) - len(pictures), len(shots))
        records = []
        for picture in pictures:
            places = range(len(picture.part_ids)) if split == "train_obj_condition" else (None,)
            for instance in places:
                object_id = picture.object_id if asked.conditioned else None
                path = folder.annotations.path
                records.append(Record(picture.path, path, None, picture.path.stem, object_id, instance))
        return records

    def label_maps(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """(object map, part map) of a picture, both uint16 (H, W); later annotations lie over earlier ones.

        Raises:
            DatasetError: an annotation is damaged or outside the picture.
        """
        picture, ignore = self._picture(record), self.vocabulary.ignore_label
        size = (picture.image.height, picture.image.width)
        object_map, part_map = np.full(size, ignore, np.uint16), np.full(size, ignore, np.uint16)
        for instance, part_id in zip(picture.image.instances, picture.part_ids, strict=True):
            mask = rasterise(instance, picture.image, record.part_path)
            part_map[mask] = part_id
            object_map[mask] = picture.object_id
        return object_map, part_map

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """Where the record's object is, bool (H, W), or the one annotation it is about."""
        if record.instance is None:
            return object_map == record.object_id
        picture = self._picture(record)
        return rasterise(picture.image.instances[record.instance], picture.image, record.part_path)

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record has a pixel of one of ``part_ids``; a record about one annotation, whether that is one."""
        if record.instance is not None:
            part_ids = [part_id for part_id in part_ids if part_id == self._picture(record).part_ids[record.instance]]
        return self.scan(split).has_part(record.image_id, part_ids)

    def scan(self, split: str) -> LabelCounts:
        """Label counts of all pictures of the split's folder, unseen objects included; counted once and cached.

        Raises:
            DatasetError: as :meth:`label_maps`, for the first wrong picture.
        """
        name = self.split(split).folder
        if name in self._scans:
            return self._scans[name]
        stored = read_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name))
        if stored is not None:
            rows = np.array(stored["rows"], np.int64).reshape(-1, 4)
            self._scans[name] = LabelCounts(tuple(stored["image_ids"]), rows)
            return self._scans[name]
        records = self.folder_records(name)
        tables = parallel_map(
            lambda record: count_labels(*self.label_maps(record)),
            records,
            progress=self.progress,
            what=f"counting labels of {name}",
        )
        return self.keep_scan(name, dict(zip((record.image_id for record in records), tables, strict=True)))

    def folder_records(self, name: str) -> list[Record]:
        """One record for each picture of the selection in ``train`` or ``val``."""
        folder = self.read_folder(name)
        path = folder.annotations.path
        return [Record(picture.path, path, None, picture.path.stem) for picture in folder.pictures]

    def keep_scan(self, name: str, tables: dict[str, np.ndarray]) -> LabelCounts:
        """Take over label counts of ``train`` or ``val`` that a full pass over the pictures has made, and cache them."""
        counts = self._scans[name] = LabelCounts.from_images(tables)
        value = {"image_ids": counts.image_ids, "rows": counts.rows.tolist()}
        write_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name), value)
        return counts

    def _scan_key(self, name: str) -> str:
        folder = self.read_folder(name)
        listed = hashlib.sha256("\n".join(picture.path.name for picture in folder.pictures).encode()).hexdigest()
        return files_key([folder.annotations.path], self.root, self.vocabulary.hash, RULES, listed)

    def _picture(self, record: Record) -> Picture:
        if record.image_path not in self._pictures:
            self.read_folder(record.image_path.relative_to(self.root / "images").parts[0])
        return self._pictures[record.image_path]

    def _object_of(self, file: str, source: Path) -> str | None:
        """Object of a picture from its file name; None if it is outside the selection."""
        synset = file.split("_")[0]
        owner = self.synsets.get(synset)
        if owner is None and SYNSETS.get(synset) in self.vocabulary.objects:
            raise DatasetError(
                f"has no synset {synset} ({SYNSETS[synset]}), of which there is a picture: {file}",
                file=self.synset_file,
                what_to_do=f"Use ImageNet's own {SYNSET_FILE}, or none.",
            )
        if owner is None:
            self._check_selects(f"{file} is of synset {synset!r}, which is none of the {len(self.synsets)} known", source)
        return owner

    def _check_selects(self, what: str, file: Path) -> None:
        if not self.selects:
            raise DatasetError(what, file=file, what_to_do=f"Unpack {self.title} again; it is used as it is released.")

    def _check_categories(self, annotations: CocoFile) -> None:
        """The download names the part categories; the released preprocessing puts names of no use in their place."""
        known = {name: category_id for category_id, name in enumerate(PART_CATEGORIES)}
        for category_id, name in annotations.categories:
            if known.get(name, category_id) != category_id:
                raise DatasetError(
                    f"numbers the part category {name!r} as {category_id}; it is {known[name]}",
                    file=annotations.path,
                    what_to_do="Use the annotation file of the release, whose category ids are 0..39.",
                )

    def _part_ids(self, image: CocoImage, object_id: int, source: Path) -> tuple[int, ...]:
        part_ids = []
        for instance in image.instances:
            part_id = self._part_of.get((object_id, instance.category_id))
            if part_id is None:
                parts = ", ".join(self.vocabulary.parts[i] for i in self.vocabulary.parts_of(object_id))
                raise DatasetError(
                    f"annotation {instance.id} of {image.file_name} is a {PART_CATEGORIES[instance.category_id]!r}, "
                    f"which no {self.vocabulary.objects[object_id]} has; it has {parts}",
                    file=source,
                    what_to_do="The file is not the released one, or the picture is misnamed: unpack both again.",
                )
            part_ids.append(part_id)
        return tuple(part_ids)


class PartImageNetSeg(PartImageNet):
    """The 40-object selection: 147 parts, 25 objects seen. See :class:`PartImageNet`."""

    name, title, selects = "partimagenet_seg", "PartImageNet (Seg)", True


class PartImageNetOOD(PartImageNet):
    """The out-of-distribution split: 482 parts; the 19 unseen objects are the validation folder's."""

    name, title, selects = "partimagenet_ood", "PartImageNet (OOD)", False

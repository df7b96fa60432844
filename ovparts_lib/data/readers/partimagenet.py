"""PartImageNet, read as it is downloaded or as the released preprocessing leaves it: 40 objects (Seg), or 128 (OOD)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.coco_instances import rasterise, rasterise_columns
from ovparts_lib.data.few_shot import FewShotSplits
from ovparts_lib.data.partimagenet_facts import SYNSET_FILE
from ovparts_lib.data.partimagenet_listing import LAYOUT, NO_PICTURE, Listing, Picture, Selection
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts, count_labels, parallel_map
from ovparts_lib.data.splits import Split, find_split
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

logger = logging.getLogger(__name__)

FOLDERS = ("train", "val")
SPLITS = {
    "train": Split("train", seen_only=True),
    "train_obj_condition": Split("train", conditioned=True),
    "train_all": Split("train"),
    "train_few_shot": Split("train", few_shot=True),
    "val_obj_condition": Split("val", conditioned=True),
}
RULES = "1"  # part of the cache key: raise it when labels are painted differently


class PartImageNet(FewShotSplits):
    """Reader of either selection; use :class:`PartImageNetSeg` or :class:`PartImageNetOOD`.

    ::

        root/images/{train,val}/<synset>_<n>.JPEG              flat, or in one folder for each synset; .jpeg, .jpg
        root/{train,val}.json                                  or root/annotations/{train,val}/{train,val}.json
        root/LOC_synset_mapping.txt                            optional; also looked for beside root

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
        synset_file: ImageNet's list of synsets, which the meaning of the file names is checked against. By default the
            one in ``root`` or beside it, if there is one.
        cache_folder: where label counts are kept between calls; ``root/.ovparts_cache`` by default.
        progress: show a progress bar while counting.

    Raises:
        DatasetError: ``root`` is not a folder.
    """

    name: str
    strict: bool
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
        self._listings: dict[str, Listing] = {}
        self._pictures: dict[Path, Picture] = {}
        self._scans: dict[str, LabelCounts] = {}
        if not self.root.is_dir():
            raise DatasetError(
                "no such folder", file=self.root, what_to_do=f"{self.vocabulary.title} is expected there: {LAYOUT}."
            )
        if synset_file is None:
            places = (self.root / SYNSET_FILE, self.root.parent / SYNSET_FILE)
            synset_file = next((path for path in places if path.is_file()), None)
        else:
            synset_file = Path(synset_file).expanduser()
        self.selection = Selection(self.root, self.vocabulary, strict=self.strict, synset_file=synset_file)

    @cached_property
    def vocabulary(self) -> PartVocabulary:
        """All objects and parts of the selection."""
        return load_vocabulary(self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(SPLITS)

    def split(self, name: str) -> Split:
        """How a split is listed. Raises ValueError naming the splits there are."""
        return find_split(SPLITS, name, self.vocabulary.title)

    def training_vocabulary(self, split: str) -> PartVocabulary:
        """Seen classes for ``train``, all classes for the others."""
        return self.vocabulary.seen if self.split(split).seen_only else self.vocabulary

    def listing(self, name: str) -> Listing:
        """The pictures and annotations of ``train`` or ``val``, read once.

        Raises:
            DatasetError: as :meth:`~ovparts_lib.data.partimagenet_listing.Selection.read`.
        """
        if name not in self._listings:
            listing = self._listings[name] = self.selection.read(name)
            self._pictures |= {picture.path: picture for picture in listing.pictures}
            if missing := listing.skipped.get(NO_PICTURE):
                logger.warning("%s: %d %s", listing.annotations.path, missing, NO_PICTURE)
        return self._listings[name]

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
        asked = self.split(split)
        listing = self.listing(asked.folder)
        path, pictures = listing.annotations.path, listing.pictures
        if not self.strict and split in ("train", "train_obj_condition"):
            seen = set(self.vocabulary.seen_object_ids)
            pictures = [picture for picture in pictures if picture.object_id in seen]
        conditioned, each = asked.conditioned, split == "train_obj_condition"
        records = [
            Record(picture.path, path, None, picture.path.stem, picture.object_id if conditioned else None, place)
            for picture in pictures
            for place in (range(len(picture.part_ids)) if each else (None,))
        ]
        return self.in_few_shot_list(records) if asked.few_shot else records

    def label_maps(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """(object map, part map) of a picture, both uint16 (H, W); later annotations lie over earlier ones.

        Raises:
            DatasetError: an annotation is damaged or outside the picture.
        """
        picture, ignore = self.picture(record), self.vocabulary.ignore_label
        part_map = np.full((picture.image.height, picture.image.width), ignore, np.uint16)
        for instance, part_id in zip(picture.image.instances, picture.part_ids, strict=True):
            columns, inside = rasterise_columns(instance, picture.image, record.part_path)
            part_map[:, columns][inside] = part_id
        object_map = np.where(part_map == ignore, ignore, picture.object_id).astype(np.uint16)
        return object_map, part_map

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map, uint16 (H, W); ``kind`` is ``object`` or ``part``. Raises DatasetError as label_maps does."""
        return self.label_maps(record)[("object", "part").index(kind)]

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """Where the record's object is, bool (H, W), or the one annotation it is about."""
        if record.instance is None:
            return object_map == record.object_id
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
        records = self.pairs(name)
        tables = parallel_map(
            lambda record: self.count(record, *self.label_maps(record)),
            records,
            progress=self.progress,
            what=f"counting labels of {name}",
        )
        return self.keep_scan(name, dict(zip((record.image_id for record in records), tables, strict=True)))

    def count(self, record: Record, object_map: np.ndarray, part_map: np.ndarray) -> np.ndarray:
        """What :meth:`scan` keeps of a picture: :func:`~ovparts_lib.data.scan.count_labels` of its label maps."""
        return count_labels(object_map, part_map)

    def keep_scan(self, name: str, tables: dict[str, np.ndarray]) -> LabelCounts:
        """Take over label counts of ``train`` or ``val`` that a full pass over the files has made, and cache them."""
        counts = self._scans[name] = LabelCounts.from_images(tables)
        value = {"image_ids": counts.image_ids, "rows": counts.rows.tolist()}
        write_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name), value)
        return counts

    def _scan_key(self, name: str) -> str:
        listing = self.listing(name)
        pictures = hashlib.sha256("\n".join(picture.path.name for picture in listing.pictures).encode()).hexdigest()
        return files_key([listing.annotations.path], self.root, self.vocabulary.hash, RULES, pictures)


class PartImageNetSeg(PartImageNet):
    """The 40-object selection: 147 parts; pictures of other synsets, and those that are not there, are left out."""

    name, strict = "partimagenet_seg", False


class PartImageNetOOD(PartImageNet):
    """The out-of-distribution split: 482 parts of 128 objects, the 19 unseen ones in the validation folder."""

    name, strict = "partimagenet_ood", True

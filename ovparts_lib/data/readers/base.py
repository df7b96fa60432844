"""What every reader of a dataset on disk shares: splits, label counts, few-shot lists, and the frame of its checks."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.few_shot import read_shot_list
from ovparts_lib.data.files import DatasetError, Record, Refuse, list_files, raise_error
from ovparts_lib.data.labels import check_label_range, check_same_size, read_labels
from ovparts_lib.data.registry import DATASETS, SHOTS_FILE, Split
from ovparts_lib.data.scan import LabelCounts, count_labels, parallel_map
from ovparts_lib.data.verification_report import Folder, VerificationReport
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

logger = logging.getLogger(__name__)


class Reader:
    """A dataset on disk: by default pictures and label files that are paired by base name.

    A reader knows files and formats. Remapping to the training vocabulary, conditioning on an object and the
    transforms are the datasets' (:mod:`ovparts_lib.data.dataset`), the same for every reader.

    Args:
        root: the dataset's folder.
        cache_folder: where label counts are kept between calls; ``root/.ovparts_cache`` by default. A folder that
            cannot be written costs the time of counting again, with a warning, and nothing else.
        progress: show a progress bar while counting.

    Attributes:
        name: of the vocabulary and of the dataset in the registry.
        layout, settings, folders, kinds, published: see :class:`~ovparts_lib.data.registry.DatasetEntry`.
        label_kinds: the kinds of label maps; the last one is what is trained and scored.
        dtype: of the label maps, the depth of the label files.
        depth: levels of folders that are looked into.
        few_shot_source: the split that few-shot lists may be drawn from.
        shots_released: whether a 16-shot list comes with the dataset.
        background_share: share of fully labelled pictures from which on the background must have been saved as 0.
        rules: part of the cache key: raise it when labels are painted or counted differently.

    Raises:
        DatasetError: ``root`` is not a folder.
    """

    name: str
    label_kinds: Sequence[str] = ("object", "part")
    dtype: type[np.unsignedinteger] = np.uint8
    depth: ClassVar[int] = 1
    few_shot_source: ClassVar[str] = "train"
    shots_released: ClassVar[bool] = False
    background_share: ClassVar[float] = 0.5
    rules: ClassVar[str] = "2"

    def __init__(self, root: str | Path, *, cache_folder: str | Path | None = None, progress: bool = False) -> None:
        self.root, entry = Path(root).expanduser(), DATASETS[self.name]
        self.layout, self.settings, self.published = entry.layout, entry.settings, entry.published
        self.folders, self.kinds = entry.folders, entry.kinds
        self.cache_folder = self.root / ".ovparts_cache" if cache_folder is None else Path(cache_folder).expanduser()
        self.progress = progress
        self._scans: dict[str, dict[str, LabelCounts]] = {}
        self._shots: frozenset[str] | None = None
        self.refuse: Refuse = raise_error  # verification collects what is wrong with single files, and goes on
        if not self.root.is_dir():
            raise DatasetError(self.root, "no such folder", f"{self.title} is expected there: {self.layout}.")

    # What it is

    @cached_property
    def vocabulary(self) -> PartVocabulary:
        """The full vocabulary, whose ids the label maps hold."""
        return load_vocabulary(self.name)

    @property
    def title(self) -> str:
        """What people call the dataset."""
        return self.vocabulary.title

    def split(self, name: str) -> Split:
        """How a split is listed. Raises ValueError naming the splits there are."""
        if name not in self.settings:
            raise ValueError(f"{self.title} has no split {name!r}; there are {', '.join(self.settings)}")
        return self.settings[name]

    def training_vocabulary(self, split: str) -> PartVocabulary:
        """The vocabulary that a split is trained with: seen classes only, or all of them."""
        return self.vocabulary.seen if self.split(split).seen_only else self.vocabulary

    # Files and records

    def folder(self, kind: str, name: str) -> Path:
        """Folder of one kind of file (``image``, ``object``, ``part``) of ``train`` or ``val``."""
        return self.root / self.kinds[kind].folder / self.folders[name]

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """``{base name: file}`` of one folder, sorted by base name, hidden files left out.

        Raises:
            DatasetError: the folder is missing, or a file in it cannot be used.
        """
        folder = self.folder(kind, name)
        if not folder.is_dir():
            self.refuse(self.missing(folder))
            return {}
        return list_files(folder, self.kinds[kind].suffixes, self.refuse, depth=self.depth)

    def missing(self, path: Path, what: str = "no such folder") -> DatasetError:
        """The error for what is not there; it names the dataset's folder if that lies inside ``root``."""
        below = path.relative_to(self.root)
        inside = next((folder for folder in sorted(self.root.glob("*")) if (folder / below).exists()), None)
        advice = f"Unpack {self.title} into {self.root}: {self.layout}."
        if inside:
            advice = f"The dataset seems to be {inside}: give that folder."
        return DatasetError(path, what, advice)

    def pairs(self, name: str) -> list[Record]:
        """One record per labelled image of ``train`` or ``val``, sorted by base name.

        Raises:
            DatasetError: a folder is missing, or the listing is wrong or empty.
        """
        kind = self.label_kinds[-1]
        images, labels = self.files("image", name), self.files(kind, name)
        objects = self.folder("object", name) if "object" in self.kinds else None
        shared = [stem for stem in images if stem in labels]
        if not shared:
            what = "label" if kind == "label" else f"{kind} label"
            what = f"no image has a {what} of the same base name ({len(images)} images, {len(labels)} label files)"
            advice = f"Labels of {self.title} are *{self.kinds[kind].suffixes[0]} there: unpack both again."
            raise DatasetError(self.folder(kind, name), what, advice)
        return [Record(images[stem], labels[stem], objects and objects / f"{stem}.png", stem) for stem in shared]

    def records(self, split: str) -> list[Record]:
        """The records of a split in listing order, those without part pixels included.

        Raises:
            DatasetError: a folder or the 16-shot list is missing or empty, or a label file is wrong.
        """
        listed = self.split(split)
        records = self.pairs(listed.folder)
        if listed.few_shot:
            records = self.in_few_shot_list(records)
        return self.conditioned(listed.folder, records) if listed.conditioned else records

    def conditioned(self, name: str, records: Iterable[Record]) -> list[Record]:
        """One record per image and object id of its object map, ids ascending, whether or not the object has parts."""
        counts, ignore = self.scan_folder(name)["rows"], self.vocabulary.ignore_label
        return [replace(record, object_id=i) for record in records for i in counts.objects_in(record.image_id, ignore)]

    def label_maps(self, record: Record) -> tuple[np.ndarray, ...]:
        """The record's label maps, one of each of ``label_kinds``, at native size and of one size.

        Raises:
            DatasetError: as :meth:`read_label`, or they differ in size.
        """
        maps = tuple(self.read_label(record, kind) for kind in self.label_kinds)
        check_same_size(self.origin(record, self.label_kinds[0]), maps[0].shape, record.part_path, maps[-1].shape)
        return maps

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map of the record's whole image, (H, W) of ``dtype``, in full-vocabulary ids.

        Raises:
            DatasetError: the file is missing, damaged, of another depth or out of range.
        """
        classes = self.vocabulary.objects if kind == "object" else self.vocabulary.classes
        path = self.origin(record, kind)
        labels = read_labels(path, self.dtype)
        what = "class" if kind == "label" else kind
        check_label_range(labels, len(classes), self.vocabulary.ignore_label, path, what)
        return labels

    def region(self, record: Record, object_map: np.ndarray) -> np.ndarray:
        """The pixels a conditioned record is about, bool (H, W): its object in ``object_map``, or its own instance.

        ``object_map`` is what :meth:`label_maps` gave for the same image.
        """
        return object_map == record.object_id

    # Label counts

    def has_part(self, split: str, record: Record, part_ids: Sequence[int]) -> bool:
        """Whether a record of the split has a pixel of one of ``part_ids``, on its own object if conditioned."""
        return self.scan(split).has_part(record.image_id, part_ids, record.object_id)

    def scan(self, split: str) -> LabelCounts:
        """Label counts of all images of the split's folder.

        A reader counts once; a new reader takes the counts from the cache if no file has changed since.

        Raises:
            DatasetError: as label_maps, for the first wrong file.
        """
        return self.scan_folder(self.split(split).folder)["rows"]

    def scan_folder(self, name: str) -> dict[str, LabelCounts]:
        """Each table that :meth:`count` makes, for all images of ``train`` or ``val``."""
        if name in self._scans:
            return self._scans[name]
        stored = read_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name))
        if stored is None:
            records = self.pairs(name)
            tables = parallel_map(
                lambda record: self.count(record, *self.label_maps(record)),
                records,
                progress=self.progress,
                what=f"counting labels of {name}",
            )
            self.keep_scan(name, {record.image_id: table for record, table in zip(records, tables, strict=True)})
        else:
            image_ids = tuple(stored.pop("image_ids"))
            self._scans[name] = {
                what: LabelCounts(image_ids, np.array(rows, np.int64).reshape(-1, 4)) for what, rows in stored.items()
            }
        return self._scans[name]

    def count(self, record: Record, object_map: np.ndarray, part_map: np.ndarray) -> dict[str, np.ndarray]:
        """What a scan keeps of an image: ``rows``, as :func:`~ovparts_lib.data.scan.count_labels` makes them."""
        return {"rows": count_labels(object_map, part_map)}

    def keep_scan(self, name: str, tables: Mapping[str, Mapping[str, np.ndarray]]) -> LabelCounts:
        """Take over what :meth:`count` gave for every image of ``train`` or ``val``, and cache it."""
        kept = next(iter(tables.values()), {"rows": None})
        counts = {what: LabelCounts.from_images({i: table[what] for i, table in tables.items()}) for what in kept}
        self._scans[name] = counts
        value = {"image_ids": tuple(tables)} | {what: count.rows.tolist() for what, count in counts.items()}
        write_cache(self.cache_folder, f"label_counts_{name}", self._scan_key(name), value)
        return counts["rows"]

    def _scan_key(self, name: str) -> str:
        records = self.pairs(name)
        labels = {path for record in records for path in (record.part_path, record.object_path) if path is not None}
        images = [str(record.image_path.relative_to(self.root)) for record in records]
        try:
            return files_key(labels, self.root, self.vocabulary.hash, self.rules, *images)
        except FileNotFoundError as error:
            raise DatasetError(error.filename, "no such file, but the other files of its image are there") from None

    # Few-shot lists

    def few_shot_ids(self) -> set[str]:
        """Ids of the training images of the few-shot list: the one in use, or ``train_16shot.json``.

        Raises:
            DatasetError: no list is in use, and the file is missing or wrong.
        """
        if self._shots is not None:
            return set(self._shots)
        return read_shot_list(self.root / SHOTS_FILE, self.folders["train"], self.title)

    def in_few_shot_list(self, records: Iterable[Record]) -> list[Record]:
        """Those of the training folder's records whose image is in the few-shot list.

        Raises:
            DatasetError: as :meth:`few_shot_ids`, or there is none.
        """
        shots = self.few_shot_ids()
        kept = [record for record in records if record.image_id in shots]
        source = self.root / SHOTS_FILE if self._shots is None else self.root
        if not kept:
            what = "the few-shot list names no image of the training folder"
            advice = "Unpack the pictures again, or use the list of this dataset."
            raise DatasetError(source, what, advice)
        if missing := len(shots - {record.image_id for record in kept}):
            logger.warning("few-shot list of %s: %d of %d images are missing", source, missing, len(shots))
        return kept

    def using_shots(self, image_ids: Iterable[str]) -> Self:
        """A copy of the reader whose few-shot splits use these images (a drawn list, say); it shares the counts."""
        reader = copy.copy(self)
        reader._shots = frozenset(image_ids)
        return reader

    # Integrity checks (see ovparts_lib.data.verify)

    def lists(self) -> list[Path]:
        """Files that concern all images, such as annotations and the 16-shot list, where they exist."""
        return [path for path in [self.root / SHOTS_FILE] if path.is_file()]

    def list_folder(self, name: str, report: VerificationReport) -> Folder:
        """What there is of ``train`` or ``val``: files that do not fit together are problems, unused ones a note."""
        files = {kind: self.files(kind, name) for kind in self.kinds}
        for kind, found in files.items():
            folder = self.folder(kind, name)
            if not found and folder.is_dir() and not report.blames(folder):
                self.refuse(DatasetError(folder, "holds no files of the dataset"))
        unlabelled = []
        for stem in sorted(set().union(*files.values())) if all(files.values()) else ():
            there = [kind for kind in self.kinds if stem in files[kind]]
            missing = [kind for kind in self.kinds if kind not in there]
            if there == ["image"]:
                unlabelled.append(stem)
            elif missing:
                what = " and ".join("picture" if kind == "image" else f"{kind} labels" for kind in missing)
                path = files[there[-1]][stem]
                self.refuse(DatasetError(path, f"has no {what} of the same name"))
        if unlabelled:
            report.notes.append(f"{name}: pictures without labels, not used: {len(unlabelled):,}, as {unlabelled[0]}")
        complete = sorted(set.intersection(*(set(found) for found in files.values())))
        images, labels, objects = files["image"], files[self.label_kinds[-1]], files.get("object", {})
        return Folder(
            records=[Record(images[stem], labels[stem], objects.get(stem), stem) for stem in complete],
            files=[path for found in files.values() for path in found.values()],
            counts={f"{kind} files": len(found) for kind, found in files.items()},
        )

    def origin(self, record: Record, kind: str) -> Path:
        """The file that a picture or label map is read from."""
        if kind == "image":
            return record.image_path
        return (record.object_path if kind == "object" else None) or record.part_path

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Records and samples of ``train`` or ``val``, and how many have no label."""
        what = "part" if isinstance(self.vocabulary, PartVocabulary) else "label"
        classes = range(len(self.vocabulary.classes))
        return {f"samples without any {what}": sum(not labels.has_part(i, classes) for i in labels.image_ids)}

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """What concerns no single image: by default the 16-shot list, whose lack is a note."""
        path = self.root / SHOTS_FILE
        if not any(split.few_shot for split in self.settings.values()):
            return
        if not path.exists():
            if self.shots_released:
                report.notes.append(f"{path.name} is not there: everything but few-shot training works without it")
            return
        images = {record.image_id for record in folders["train"].records}
        try:
            named = self.few_shot_ids()
        except DatasetError as error:
            self.refuse(error)
            return
        report.counts["train"]["images of the 16-shot list"] = len(named)
        if missing := sorted(named - images):
            where = f"images/{self.folders['train']}, for example {missing[0]}"
            what = f"{len(missing)} of {len(named)} images it names are not in {where}"
            self.refuse(DatasetError(path, what, "Unpack the pictures again, or download the list again."))

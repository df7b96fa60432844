"""Integrity check of a dataset before anything is computed on it, as nnU-Net does it.

What is common to all datasets is here: decoding every file to its end, depths, sizes and label ranges, pictures shared
by train and val, unseen classes, the fingerprint, the cache. Each dataset adds its own rules as :class:`Checks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.labels import check_same_size, read_image
from ovparts_lib.data.records import DatasetError, Reader, Record
from ovparts_lib.data.scan import LabelCounts, parallel_map
from ovparts_lib.data.splits import Split
from ovparts_lib.data.verification_report import Problem, VerificationReport

KINDS = ("image", "object", "part")
RULES = "4"  # part of the cache key: raise it when the checks change


class VerifiableReader(Reader, Protocol):
    """What the checks ask of a reader beyond what the datasets do.

    Attributes:
        cache_folder: where reports and label counts are kept.
        progress: show a progress bar.
    """

    cache_folder: Path
    progress: bool

    def split(self, name: str) -> Split:
        """How a split is listed."""

    def pairs(self, name: str) -> list[Record]:
        """One record per labelled image of ``train`` or ``val``."""

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """The ``object`` or ``part`` map of the record's image."""

    def count(self, record: Record, object_map: np.ndarray, part_map: np.ndarray) -> Any:
        """What the reader keeps of an image when it scans a folder."""

    def keep_scan(self, name: str, tables: dict[str, Any]) -> LabelCounts:
        """Take over what :meth:`count` gave for every image of ``train`` or ``val``."""


@dataclass(frozen=True)
class Published:
    """Number of images in ``train`` or ``val`` according to its authors.

    Attributes:
        images: how many.
        source: where it stands, in a few words.
        about: a rounded or uncertain figure.
    """

    images: int
    source: str
    about: bool = False


@dataclass
class Folder:
    """What there is of ``train`` or ``val``.

    Attributes:
        records: one per image that has all its files.
        files: every file found, including those of no use.
        hidden: files passed over because their name begins with a dot.
        counts: how many files of what.
    """

    records: list[Record]
    files: list[Path]
    hidden: list[Path] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Checks(Protocol):
    """The rules of one dataset.

    Attributes:
        reader: the dataset on disk.
        published: image counts of ``train`` and ``val`` where its authors state them.
        own_files: the kinds of ``KINDS`` that have one file per image.
        lists: files that concern all images, such as annotations and the 16-shot list, where they exist.
    """

    reader: VerifiableReader
    published: Mapping[str, Published]
    own_files: tuple[str, ...]
    lists: list[Path]

    def list_folders(self, report: VerificationReport) -> dict[str, Folder]:
        """``train`` and ``val``; what cannot be listed at all becomes a problem, and then nothing else is checked."""

    def check_listing(self, name: str, folder: Folder, report: VerificationReport) -> None:
        """Files that do not fit together."""

    def origin(self, record: Record, kind: str) -> Path:
        """The file that a picture or label map is read from."""

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Records and samples of ``train`` or ``val``, and how many have no part."""

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """What concerns no single image."""


@dataclass(frozen=True)
class Inspection:
    """What a pass over one image and its labels found: content hashes, problems, and label counts if there are none."""

    record: Record
    digests: dict[str, str]
    problems: list[Problem]
    table: Any | None


def verify(title: str, root: str | Path, open_checks: Callable[[], Checks]) -> VerificationReport:
    """Read every file of a dataset once and report what is wrong, each problem with its file.

    A second call on unchanged files (by name, size and modification time) takes the report from the cache. Label counts
    are kept for the readers.

    Args:
        title: of the dataset.
        root: its folder.
        open_checks: makes the dataset's rules, and may raise DatasetError.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    report = VerificationReport(title, str(Path(root).expanduser()))
    try:
        checks = open_checks()
    except DatasetError as error:
        report.problems.append(Problem.of(error))
        return report
    reader, folders = checks.reader, checks.list_folders(report)
    if report.problems:
        return report
    every_file = [path for folder in folders.values() for path in folder.files]
    hidden = [str(path) for folder in folders.values() for path in folder.hidden]
    key = files_key(every_file + checks.lists, reader.root, RULES, str(reader.root), reader.vocabulary.hash, *hidden)
    stored = read_cache(reader.cache_folder, "verification", key)
    if stored is not None:
        return VerificationReport.from_dict(stored)

    inspections = {name: _check_folder(checks, name, folder, report) for name, folder in folders.items()}
    _check_shared_pictures(inspections, report)
    checks.check_rest(folders, report)
    report.fingerprint = _fingerprint(checks, [i for found in inspections.values() for i in found])
    write_cache(reader.cache_folder, "verification", key, report.to_dict())
    return report


def leaked_classes(reader: Reader, split: str, counts: LabelCounts) -> list[str]:
    """Unseen classes that the labels of a training split still hold after the remap to its training vocabulary.

    None, unless the reader's training vocabulary is wrong: this checks the reader, whatever the files hold.
    """
    full, target = reader.vocabulary, reader.training_vocabulary(split)
    unseen = {full.parts[i] for i in full.unseen_part_ids} | full.unseen_objects
    leaked = []
    for column, table, names in (
        (1, full.object_table(target), target.objects),
        (2, full.part_table(target), target.parts),
    ):
        remapped = np.unique(table[np.unique(counts.rows[:, column])])
        leaked += [names[label] for label in remapped if label != target.ignore_label and names[label] in unseen]
    return leaked


def removed_pixels(reader: Reader, split: str, counts: LabelCounts) -> dict[str, int]:
    """Labelled part pixels that the remap to a split's training vocabulary takes out, by class, most first."""
    full, target = reader.vocabulary, reader.training_vocabulary(split)
    rows = counts.rows[counts.rows[:, 2] != full.ignore_label]
    gone = rows[full.part_table(target)[rows[:, 2]] == target.ignore_label]
    pixels = np.bincount(gone[:, 2], gone[:, 3], minlength=len(full.parts)).astype(int)
    return {full.parts[part]: int(pixels[part]) for part in np.argsort(-pixels, kind="stable") if pixels[part]}


def check_shots(
    path: Path, shots: Callable[[], set[str]], images: Sequence[str], folder: str, report: VerificationReport
) -> None:
    """Check the 16-shot list: readable, and every image it names in the training folder. Missing is a note.

    Args:
        path: the list.
        shots: reads it; may raise DatasetError.
        images: base names of the training pictures.
        folder: of these, for messages.
        report: gets the outcome.
    """
    try:
        named = shots()
    except DatasetError as error:
        if path.exists():
            report.problems.append(Problem.of(error))
        else:
            report.notes.append(f"{path.name} is not there: everything but few-shot training works without it")
        return
    report.counts["train"]["images of the 16-shot list"] = len(named)
    missing = sorted(named - set(images))
    if missing:
        report.problems.append(
            Problem(
                str(path),
                f"{len(missing)} of {len(named)} images it names are not in {folder}, for example {missing[0]}",
                "Unpack the pictures again, or download the list again.",
            )
        )


def hidden_files(folders: Sequence[Path]) -> list[Path]:
    """Files whose name begins with a dot, such as the ``._*`` of macOS archives."""
    return sorted(path for folder in folders for path in folder.iterdir() if path.name.startswith("."))


def _check_folder(checks: Checks, name: str, folder: Folder, report: VerificationReport) -> list[Inspection]:
    """Check ``train`` or ``val``; returns the inspections of all images that have their label files."""
    reader, records = checks.reader, folder.records
    report.counts[name] = counts = dict(folder.counts)
    checks.check_listing(name, folder, report)
    inspections = parallel_map(
        lambda record: _inspect(checks, record), records, progress=reader.progress, what=f"verifying {name}"
    )
    found = (problem for inspection in inspections for problem in inspection.problems)
    report.problems += dict.fromkeys(found)  # a wrong annotation file may be met in many images
    counts["complete samples"] = len(records)
    counts["hidden files ignored"] = len(folder.hidden)
    if folder.hidden:
        report.notes.append(
            f"{name}: {len(folder.hidden)} hidden files are ignored, for example {folder.hidden[0].name}"
        )
    published = checks.published.get(name)
    if published and len(records) != published.images:
        about = f"about {published.images:,} (not re-counted)" if published.about else f"{published.images:,}"
        source = "" if published.about else f" ({published.source})"
        report.notes.append(f"{name}: {len(records):,} samples; published are {about}{source}")
    tables = {i.record.image_id: i.table for i in inspections if i.table is not None}
    if records and len(tables) == len(records) and list(tables) == [r.image_id for r in reader.pairs(name)]:
        _check_labels(checks, name, reader.keep_scan(name, tables), report)
    return inspections


def _inspect(checks: Checks, record: Record) -> Inspection:
    """Decode a picture and its labels completely; collect every problem rather than the first."""
    problems, maps, sizes, digests = [], {}, {}, {}
    for kind in KINDS:
        path = checks.origin(record, kind)
        try:
            if kind in checks.own_files:
                digests[kind] = hashlib.sha256(path.read_bytes()).hexdigest()
            if kind == "image":
                sizes[kind] = tuple(read_image(path).shape[-2:])
            else:
                maps[kind] = checks.reader.read_label(record, kind)
                sizes[kind] = maps[kind].shape
        except DatasetError as error:
            problems.append(Problem.of(error))
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read ({error.strerror})", "Check the disk and permissions."))
    for kind in maps if "image" in sizes else ():
        try:
            check_same_size(record.image_path, sizes["image"], checks.origin(record, kind), sizes[kind])
        except DatasetError as error:
            problems.append(Problem.of(error))
    table = None if problems else checks.reader.count(record, maps["object"], maps["part"])
    return Inspection(record, digests, problems, table)


def _check_labels(checks: Checks, name: str, labels: LabelCounts, report: VerificationReport) -> None:
    """What the label counts of a folder say about samples, consistency and unseen classes."""
    vocabulary, counts = checks.reader.vocabulary, report.counts[name]
    ignore = vocabulary.ignore_label
    parts = range(len(vocabulary.parts))
    counts |= checks.count_records(name, labels)

    on_part = labels.rows[labels.rows[:, 2] != ignore]
    owner = np.array(vocabulary.part_to_object)[on_part[:, 2]]
    outside, other = on_part[:, 1] == ignore, (on_part[:, 1] != owner) & (on_part[:, 1] != ignore)
    counts["part pixels"] = int(on_part[:, 3].sum())
    counts["part pixels on another object"] = int(on_part[other, 3].sum())
    counts["part pixels outside every object"] = int(on_part[outside, 3].sum())
    for what, where in (("on another object than their own", other), ("outside every object", outside)):
        if where.any():
            images = np.unique(on_part[where, 0])
            report.notes.append(
                f"{name}: {int(on_part[where, 3].sum()):,} part pixels in {len(images):,} images lie {what}, "
                f"for example in {labels.image_ids[images[0]]}"
            )
    absent = sorted(set(parts) - set(on_part[:, 2].tolist()))
    if absent:
        names = ", ".join(vocabulary.parts[part] for part in absent[:5]) + (" …" if len(absent) > 5 else "")
        report.notes.append(f"{name}: {len(absent)} of {len(parts)} parts occur in no image: {names}")
    _check_unseen(checks, name, labels, report)


def _check_unseen(checks: Checks, name: str, labels: LabelCounts, report: VerificationReport) -> None:
    """Count what the remap takes out of zero-shot training labels, and check that the reader leaves nothing unseen."""
    reader = checks.reader
    settings = {split: reader.split(split) for split in reader.splits}
    splits = [split for split, how in settings.items() if how.folder == name and how.seen_only]
    for split in splits:
        if leaked := leaked_classes(reader, split, labels):
            report.problems.append(
                Problem(
                    str(checks.origin(reader.pairs(name)[0], "part").parent),
                    f"training labels of {split} hold unseen classes after the remap: {', '.join(leaked[:5])}",
                    "The files are as they should be: check the training vocabulary of the reader.",
                )
            )
    if not splits:
        return
    removed = removed_pixels(reader, splits[0], labels)
    report.counts[name]["part pixels of unseen classes, removed for training"] = sum(removed.values())
    if removed:
        each = ", ".join(f"{part} {pixels:,}" for part, pixels in removed.items())
        report.notes.append(
            f"{name}: {sum(removed.values()):,} pixels of {len(removed)} unseen parts are labelled in the files; the "
            f"remap to seen classes removes them from {' and '.join(splits)}: {each}"
        )


def _check_shared_pictures(inspections: dict[str, list[Inspection]], report: VerificationReport) -> None:
    """A picture of the training folder must not be tested on, under its own or another name."""
    train = {i.record.image_id: i.record.image_path for i in inspections["train"]}
    contents = {i.digests.get("image"): i.record.image_path for i in inspections["train"]}
    for inspection in inspections["val"]:
        path = inspection.record.image_path
        twin = train.get(inspection.record.image_id) or contents.get(inspection.digests.get("image", "unread"))
        if twin is not None:
            report.problems.append(
                Problem(str(path), f"is also a training picture: {twin}", "Remove it from train or from val.")
            )


def _fingerprint(checks: Checks, inspections: list[Inspection]) -> str:
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in checks.lists]
    for inspection in inspections:
        for kind in checks.own_files:
            path = checks.origin(inspection.record, kind).relative_to(checks.reader.root)
            lines.append(f"{path.as_posix()} {inspection.digests.get(kind)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

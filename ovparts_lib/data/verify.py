"""Integrity check of a dataset before anything is computed on it, as nnU-Net does it.

What is common to all datasets is here: decoding every file to its end, depths, sizes and label ranges, pictures shared
by train and val, unseen classes, the fingerprint, the cache. Each reader adds the rules of its own files.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.files import DatasetError, Record, read_file
from ovparts_lib.data.labels import check_same_size, decode_picture
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.scan import LabelCounts, parallel_map
from ovparts_lib.data.verification_report import Folder, Problem, VerificationReport
from ovparts_lib.vocabularies import PartVocabulary

RULES = "6"  # part of the cache key: raise it when the checks change


@dataclass(frozen=True)
class Inspection:
    """What a pass over one image and its labels found: content hashes, problems, and label counts if there are none."""

    record: Record
    digests: dict[str, str]
    problems: list[Problem]
    table: Mapping[str, np.ndarray] | None


def verify(title: str, root: str | Path, open_dataset: Callable[[], Reader]) -> VerificationReport:
    """Read every file of a dataset once and report what is wrong, each problem with its file.

    A second call on unchanged files takes a report without problems from the cache. Label counts are kept for the
    readers.

    Args:
        title: of the dataset.
        root: its folder.
        open_dataset: makes a reader for the check alone, and may raise DatasetError.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    report = VerificationReport(title, str(Path(root).expanduser()))
    try:
        reader = open_dataset()
        reader.refuse = lambda error: report.problems.append(Problem.of(error))
        folders = {name: reader.list_folder(name, report) for name in reader.folders}
        lists = reader.lists()
        files = [path for folder in folders.values() for path in folder.files]
        key = files_key(files + lists, reader.root, RULES, str(reader.root), reader.vocabulary.hash)
        stored = None if report.problems else read_cache(reader.cache_folder, "verification", key)
        if stored is not None:
            return VerificationReport(**stored)
        inspections = {name: _check_folder(reader, name, folder, report) for name, folder in folders.items()}
        _check_shared_pictures(inspections, report)
        reader.check_rest(folders, report)
        report.fingerprint = _fingerprint(reader, lists, [i for found in inspections.values() for i in found])
    except (DatasetError, OSError) as error:
        report.problems.append(_problem(error, report.root))
    report.problems = list(dict.fromkeys(report.problems))  # a wrong annotation file may be met in many images
    if report.ok:  # what is wrong may be wrong for a moment only: a disk that is not mounted, a permission
        write_cache(reader.cache_folder, "verification", key, asdict(report))
    return report


@contextmanager
def _noting(problems: list[Problem], file: Path) -> Iterator[None]:
    """Add what goes wrong with a file inside the block to ``problems`` and go on."""
    try:
        yield
    except Exception as error:
        problems.append(_problem(error, file))


def _problem(error: Exception, file: str | Path) -> Problem:
    """Whatever happened to a file, as a problem: one odd file must not end the check of the others."""
    if isinstance(error, DatasetError):
        return Problem.of(error)
    if isinstance(error, OSError):
        return Problem(str(error.filename or file), f"cannot be read ({error.strerror})", "Check disk and permissions.")
    return Problem(str(file), f"cannot be checked ({type(error).__name__}: {error})", "Unpack the file again.")


def removed_pixels(reader: Reader, split: str, counts: LabelCounts) -> dict[str, int]:
    """Labelled part pixels that the remap to a split's training vocabulary takes out, by class, most first."""
    full, target = reader.vocabulary, reader.training_vocabulary(split)
    rows = counts.rows[counts.rows[:, 2] != full.ignore_label]
    gone = rows[full.table(target)[rows[:, 2]] == target.ignore_label]
    pixels = np.bincount(gone[:, 2], gone[:, 3], minlength=len(full.parts)).astype(int)
    return {full.parts[part]: int(pixels[part]) for part in np.argsort(-pixels, kind="stable") if pixels[part]}


def _check_folder(reader: Reader, name: str, folder: Folder, report: VerificationReport) -> list[Inspection]:
    """Check ``train`` or ``val``; returns the inspections of all images that have their label files."""
    records = folder.records
    report.counts[name] = counts = dict(folder.counts)
    unlisted = parallel_map(_decodes, folder.unlisted, progress=reader.progress, what=f"pictures of {name}")
    report.problems += [problem for problems in unlisted for problem in problems]
    inspections = parallel_map(
        lambda record: _inspect(reader, record), records, progress=reader.progress, what=f"verifying {name}"
    )
    report.problems += [problem for inspection in inspections for problem in inspection.problems]
    counts["complete samples"] = len(records)
    published = reader.published.get(name)
    if published and len(records) != published.images:
        stated = f"{published.images:,} ({published.source})"
        report.notes.append(f"{name}: {len(records):,} samples; published are {stated}")
    tables = {i.record.image_id: i.table for i in inspections if i.table is not None}
    if records and len(tables) == len(records) and list(tables) == [r.image_id for r in reader.pairs(name)]:
        _check_labels(reader, name, reader.keep_scan(name, tables), report)
    return inspections


def _decodes(path: Path) -> list[Problem]:
    problems: list[Problem] = []
    with _noting(problems, path):
        decode_picture(path)
    return problems


def _inspect(reader: Reader, record: Record) -> Inspection:
    """Decode a picture and its labels completely; collect every problem rather than the first."""
    problems, maps, digests, table = [], {}, {}, None
    for kind in reader.label_kinds:
        with _noting(problems, reader.origin(record, kind)):
            maps[kind] = reader.read_label(record, kind)
    for kind in reader.kinds:
        with _noting(problems, reader.origin(record, kind)):
            digests[kind] = hashlib.sha256(read_file(reader.origin(record, kind))).hexdigest()
    with _noting(problems, record.image_path):
        label_size = next((labels.shape for labels in maps.values()), None)
        pixels, orientation = decode_picture(record.image_path, label_size)
        if orientation != 1:
            problems.append(_turned(record, orientation, pixels.shape[:2] == label_size))
        for kind, labels in maps.items():
            with _noting(problems, record.image_path):
                check_same_size(record.image_path, pixels.shape[:2], reader.origin(record, kind), labels.shape)
        if not problems:
            table = reader.count(record, *(maps[kind] for kind in reader.label_kinds))
    return Inspection(record, digests, list(dict.fromkeys(problems)), table)


def _turned(record: Record, orientation: int, fits: bool) -> Problem:
    """A picture whose EXIF block wants it turned or mirrored: whether its labels are is for a person to see."""
    fitting = "its labels have the size of the stored pixels and are served with these" if fits else "its labels do not"
    return Problem(
        str(record.image_path),
        f"has EXIF orientation {orientation}, which turns or mirrors the picture; {fitting}",
        "Look at picture and labels: if they fit as stored, remove the orientation tag (exiftool -Orientation= FILE); "
        "else turn the stored pixels and remove it (exiftran -a, or ImageMagick's -auto-orient).",
    )


def _check_labels(reader: Reader, name: str, labels: LabelCounts, report: VerificationReport) -> None:
    """What the label counts of a folder say about samples, consistency and unseen classes."""
    vocabulary, counts = reader.vocabulary, report.counts[name]
    counts |= reader.count_records(name, labels)
    of_parts = isinstance(vocabulary, PartVocabulary)
    what = "part" if of_parts else "labelled"
    labelled = labels.rows[labels.rows[:, 2] != vocabulary.ignore_label]
    counts[f"{what} pixels"] = int(labelled[:, 3].sum())
    if of_parts:
        _check_owners(name, labels, labelled, vocabulary, report)
        _check_unseen(reader, name, labels, report)
    absent = sorted(set(range(len(vocabulary.classes))) - set(labelled[:, 2].tolist()))
    if absent:
        names = ", ".join(vocabulary.classes[i] for i in absent[:5]) + (" …" if len(absent) > 5 else "")
        report.notes.append(f"{name}: {len(absent)} of {len(vocabulary.classes)} classes occur in no image: {names}")
    for kind in [kind for kind in reader.label_kinds if kind in reader.kinds]:
        _check_background(reader, name, labels, kind, report)


def _check_owners(
    name: str, labels: LabelCounts, on_part: np.ndarray, vocabulary: PartVocabulary, report: VerificationReport
) -> None:
    """Part labels should lie on the object they belong to."""
    counts, ignore = report.counts[name], vocabulary.ignore_label
    owner = np.array(vocabulary.part_to_object)[on_part[:, 2]]
    outside, other = on_part[:, 1] == ignore, (on_part[:, 1] != owner) & (on_part[:, 1] != ignore)
    counts["part pixels on another object"] = int(on_part[other, 3].sum())
    counts["part pixels outside every object"] = int(on_part[outside, 3].sum())
    for what, where in (("on another object than their own", other), ("outside every object", outside)):
        if where.any():
            images, pixels = np.unique(on_part[where, 0]), int(on_part[where, 3].sum())
            shown = f"images with such: {len(images):,}, for example {labels.image_ids[images[0]]}"
            report.notes.append(f"{name}: part pixels that lie {what}: {pixels:,}; {shown}")


def _check_background(reader: Reader, name: str, labels: LabelCounts, kind: str, report: VerificationReport) -> None:
    """Label files in which "no label" was saved as 0 say that everything around the objects is the first class.

    Then no pixel of a picture is without a label, and class 0 is in it. Single pictures may be like that; half of a
    folder is not.
    """
    ignore, rows = reader.vocabulary.ignore_label, labels.rows
    column, names = (1, reader.vocabulary.objects) if kind == "object" else (2, reader.vocabulary.classes)
    unlabelled = np.unique(rows[rows[:, column] == ignore, 0])
    full = np.setdiff1d(rows[rows[:, column] == 0, 0], unlabelled)
    if not full.size:
        return
    path = reader.origin(next(r for r in reader.pairs(name) if r.image_id == labels.image_ids[full[0]]), kind)
    label = "label" if kind == "label" else f"{kind} label"
    what = (
        f"has no pixel without {label} ({ignore}) and shows {names[0]!r} (0); such are {len(full):,} of "
        f"{len(labels.image_ids):,} {label} files of {name}"
    )
    if len(full) < reader.background_share * len(labels.image_ids):
        report.notes.append(f"{name}: {path.name} {what}: look whether the background of these was saved as 0")
        return
    what += ": the background seems to have been saved as 0"
    advice = f"Unpack the released label files again; pixels without label are {ignore} there."
    report.problems.append(Problem(str(path), what, advice))


def _check_unseen(reader: Reader, name: str, labels: LabelCounts, report: VerificationReport) -> None:
    """Count what the remap takes out of zero-shot training labels."""
    splits = [split for split, how in reader.settings.items() if how.folder == name and how.seen_only]
    if not splits:
        return
    removed = removed_pixels(reader, splits[0], labels)
    report.counts[name]["part pixels of unseen classes, removed for training"] = sum(removed.values())
    if removed:
        each = ", ".join(f"{part} {pixels:,}" for part, pixels in removed.items())
        what = f"{sum(removed.values()):,} labelled pixels of {len(removed)} unseen parts"
        report.notes.append(f"{name}: the remap to seen classes removes {what} from {' and '.join(splits)}: {each}")


def _check_shared_pictures(inspections: dict[str, list[Inspection]], report: VerificationReport) -> None:
    """A picture of the training folder must not be tested on, under its own or another name."""
    if set(inspections) != {"train", "val"}:
        return
    train = {i.record.image_id: i.record.image_path for i in inspections["train"]}
    contents = {i.digests.get("image"): i.record.image_path for i in inspections["train"]}
    for inspection in inspections["val"]:
        path = inspection.record.image_path
        twin = train.get(inspection.record.image_id) or contents.get(inspection.digests.get("image", "unread"))
        if twin is not None:
            what = f"is also a training picture: {twin}"
            report.problems.append(Problem(str(path), what, "Remove it from train or from val."))


def _fingerprint(reader: Reader, lists: list[Path], inspections: list[Inspection]) -> str:
    lines = [f"{path.name} {hashlib.sha256(read_file(path)).hexdigest()}" for path in lists]
    for inspection in inspections:
        for kind in reader.kinds:
            path = reader.origin(inspection.record, kind).relative_to(reader.root)
            lines.append(f"{path.as_posix()} {inspection.digests.get(kind)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

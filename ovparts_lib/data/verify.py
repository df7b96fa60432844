"""Integrity check of a dataset before anything is computed on it, as nnU-Net does it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.labels import check_same_size, read_image
from ovparts_lib.data.pascal_part_116 import FOLDERS, SHOTS_FILE, SPLITS, PascalPart116
from ovparts_lib.data.records import DatasetError, Reader, Record
from ovparts_lib.data.scan import LabelCounts, count_labels, parallel_map
from ovparts_lib.data.verification_report import Problem, VerificationReport

KINDS = ("image", "object", "part")
PUBLISHED = {"train": 8431, "val": 850}  # "about", OV-PARTS and PartCLIPSeg papers
RULES = "2"  # part of the cache key: raise it when the checks change


@dataclass(frozen=True)
class Inspection:
    """What a pass over one image and its labels found: content hashes, problems, and label counts if there are none."""

    record: Record
    digests: dict[str, str]
    problems: list[Problem]
    table: np.ndarray | None


def verify_pascal_part_116(
    root: str | Path, *, cache_folder: str | Path | None = None, progress: bool = False
) -> VerificationReport:
    """Read every file of Pascal-Part-116 once and report what is wrong, each problem with its file.

    Checked are folders, pairing by base name, that every picture and label file decodes to its end, depths, sizes,
    label ranges, pictures shared by train and val, and the 16-shot list. Unseen classes are labelled in the training
    files as released: the report counts their pixels, which the reader's remap takes out of zero-shot training. Label
    counts are kept for the readers. A second call on unchanged files (by name, size and modification time) takes the
    report from the cache.

    Args:
        root: the folder that holds ``images``.
        cache_folder: see :class:`~ovparts_lib.data.pascal_part_116.PascalPart116`.
        progress: show a progress bar.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    report = VerificationReport("Pascal-Part-116", str(Path(root).expanduser()))
    try:
        reader = PascalPart116(root, cache_folder=cache_folder, progress=progress)
    except DatasetError as error:
        report.problems.append(Problem.of(error))
        return report
    files = _list_folders(reader, report)
    if report.problems:
        return report
    shots = [reader.root / SHOTS_FILE] if (reader.root / SHOTS_FILE).is_file() else []
    hidden = {name: _hidden_files(reader, name) for name in FOLDERS}
    every_file = [path for of_kind in files.values() for paths in of_kind.values() for path in paths.values()]
    unused = [str(path) for paths in hidden.values() for path in paths]
    key = files_key(every_file + shots, reader.root, RULES, str(reader.root), reader.vocabulary.hash, *unused)
    stored = read_cache(reader.cache_folder, "verification", key)
    if stored is not None:
        return VerificationReport.from_dict(stored)

    inspections = {name: _check_folder(reader, name, files[name], hidden[name], report) for name in FOLDERS}
    _check_shared_pictures(inspections, report)
    _check_shots(reader, report)
    report.fingerprint = _fingerprint(reader, [i for found in inspections.values() for i in found], shots)
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


def _list_folders(reader: PascalPart116, report: VerificationReport) -> dict[str, dict[str, dict[str, Path]]]:
    files: dict[str, dict[str, dict[str, Path]]] = {name: {} for name in FOLDERS}
    for name in FOLDERS:
        for kind in KINDS:
            try:
                files[name][kind] = reader.files(kind, name)
            except DatasetError as error:
                report.problems.append(Problem.of(error))
                continue
            if not files[name][kind]:
                folder = str(reader.folder(kind, name))
                report.problems.append(Problem(folder, "holds no files of the dataset", "Unpack the dataset again."))
    return files


def _hidden_files(reader: PascalPart116, name: str) -> list[Path]:
    folders = (reader.folder(kind, name) for kind in KINDS)
    return sorted(path for folder in folders for path in folder.iterdir() if path.name.startswith("."))


def _check_folder(
    reader: PascalPart116, name: str, files: dict[str, dict[str, Path]], hidden: list[Path], report: VerificationReport
) -> list[Inspection]:
    """Check ``train`` or ``val``; returns the inspections of all images that have both label files."""
    counts = {f"{kind} files": len(files[kind]) for kind in KINDS}
    report.counts[name] = counts
    complete = sorted(set(files["image"]) & set(files["object"]) & set(files["part"]))
    _check_pairing(name, files, report)
    records = [Record(*(files[kind][stem] for kind in ("image", "part", "object")), stem) for stem in complete]
    inspections = parallel_map(
        lambda record: _inspect(reader, record), records, progress=reader.progress, what=f"verifying {name}"
    )
    report.problems += [problem for inspection in inspections for problem in inspection.problems]
    counts["complete samples"] = len(records)
    counts["hidden files ignored"] = len(hidden)
    if hidden:
        report.notes.append(f"{name}: {len(hidden)} hidden files are ignored, for example {hidden[0].name}")
    if len(records) != PUBLISHED[name]:
        report.notes.append(
            f"{name}: {len(records):,} samples; published are about {PUBLISHED[name]:,} (not re-counted)"
        )
    tables = {i.record.image_id: i.table for i in inspections if i.table is not None}
    if records and len(tables) == len(records) and list(tables) == [r.image_id for r in reader.pairs(name)]:
        _check_labels(reader, name, reader.keep_scan(name, tables), report)
    return inspections


def _check_pairing(name: str, files: dict[str, dict[str, Path]], report: VerificationReport) -> None:
    unlabelled = []
    for stem in sorted(set().union(*files.values())):
        there = [kind for kind in KINDS if stem in files[kind]]
        missing = [kind for kind in KINDS if kind not in there]
        if there == ["image"]:
            unlabelled.append(stem)
        elif missing:
            what = " and ".join("picture" if kind == "image" else f"{kind} labels" for kind in missing)
            path = files[there[-1]][stem]
            report.problems.append(Problem(str(path), f"has no {what} of the same name", "Unpack the dataset again."))
    if unlabelled:
        report.notes.append(
            f"{name}: {len(unlabelled)} pictures have no labels and are not used, for example {unlabelled[0]}"
        )


def _inspect(reader: PascalPart116, record: Record) -> Inspection:
    """Decode a picture and its labels completely; collect every problem rather than the first."""
    problems, maps, sizes, digests, paths = [], {}, {}, {}, _paths(record)
    for kind, path in paths.items():
        try:
            digests[kind] = hashlib.sha256(path.read_bytes()).hexdigest()
            if kind == "image":
                sizes[kind] = tuple(read_image(path).shape[-2:])
            else:
                maps[kind] = reader.read_label(record, kind)
                sizes[kind] = maps[kind].shape
        except DatasetError as error:
            problems.append(Problem.of(error))
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read ({error.strerror})", "Check the disk and permissions."))
    for kind in maps if "image" in sizes else ():
        try:
            check_same_size(record.image_path, sizes["image"], paths[kind], sizes[kind])
        except DatasetError as error:
            problems.append(Problem.of(error))
    table = None if problems else count_labels(maps["object"], maps["part"])
    return Inspection(record, digests, problems, table)


def _check_labels(reader: PascalPart116, name: str, labels: LabelCounts, report: VerificationReport) -> None:
    """What the label counts of a folder say about samples, consistency and unseen classes."""
    vocabulary, counts = reader.vocabulary, report.counts[name]
    ignore = vocabulary.ignore_label
    parts = range(len(vocabulary.parts))
    conditions = [(i, o) for i in labels.image_ids for o in labels.objects_in(i, ignore)]
    counts["samples without any part"] = sum(not labels.has_part(i, parts) for i in labels.image_ids)
    counts["(image, object) records"] = len(conditions)
    counts["records without part pixels"] = sum(not labels.has_part(i, parts, o) for i, o in conditions)

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
    _check_unseen(reader, name, labels, report)


def _check_unseen(reader: PascalPart116, name: str, labels: LabelCounts, report: VerificationReport) -> None:
    """Count what the remap takes out of zero-shot training labels, and check that the reader leaves nothing unseen."""
    splits = [split for split, settings in SPLITS.items() if settings.folder == name and settings.seen_only]
    for split in splits:
        if leaked := leaked_classes(reader, split, labels):
            report.problems.append(
                Problem(
                    str(reader.folder("part", name)),
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


def _check_shots(reader: PascalPart116, report: VerificationReport) -> None:
    try:
        shots = reader.few_shot_ids()
    except DatasetError as error:
        if (reader.root / SHOTS_FILE).exists():
            report.problems.append(Problem.of(error))
        else:
            report.notes.append(f"{SHOTS_FILE} is not there: everything but few-shot training works without it")
        return
    report.counts["train"]["images of the 16-shot list"] = len(shots)
    missing = sorted(shots - set(reader.files("image", "train")))
    if missing:
        report.problems.append(
            Problem(
                str(reader.root / SHOTS_FILE),
                f"{len(missing)} of {len(shots)} images it names are not in images/train, for example {missing[0]}",
                "Unpack the pictures again, or download the list again.",
            )
        )


def _fingerprint(reader: PascalPart116, inspections: list[Inspection], shots: list[Path]) -> str:
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in shots]
    for inspection in inspections:
        for kind, path in _paths(inspection.record).items():
            lines.append(f"{path.relative_to(reader.root).as_posix()} {inspection.digests.get(kind)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _paths(record: Record) -> dict[str, Path]:
    return {"image": record.image_path, "object": record.object_path, "part": record.part_path}

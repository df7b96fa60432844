"""Label files that the field derives from official archives, made by one call: ``ovparts prepare NAME SOURCE TARGET``.

The rules are those of the scripts of OVSeg and SCAN, so that label files are the ones published numbers were scored on.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch.nn import functional as F

from ovparts_lib.data.ade20k_release import read_codes
from ovparts_lib.data.ade20k_source import build_ade20k_part_234, find_pictures
from ovparts_lib.data.files import DatasetError, check_file, list_files
from ovparts_lib.data.labels import check_same_size, read_image, read_labels
from ovparts_lib.data.registry import DATASETS, PREPARED
from ovparts_lib.data.scan import parallel_map
from ovparts_lib.data.verification_report import PrepareReport, Problem
from ovparts_lib.images import resize_labels, write_picture
from ovparts_lib.vocabularies import load_vocabulary

ADE_SHORTEST = 512  # pictures of ADE20K-847 whose short side is longer are stored at this size, as released
_CODES = 1 << 16


@dataclass(frozen=True)
class Source:
    """The official labels of one split.

    Attributes:
        labels: the files, in order.
        read: the map of class ids of one of them, int64 (H, W), with the ignore label where there is none.
        pictures: folder of their pictures; None where ``picture`` writes them.
        picture: for one label file the picture that goes with it, to be stored beside the labels at their size.
    """

    labels: list[Path]
    read: Callable[[Path], np.ndarray]
    pictures: Path | None = None
    picture: Callable[[Path], Path] | None = None


def prepare_dataset(name: str, source: str | Path, target: str | Path, *, progress: bool = False) -> PrepareReport:
    """Write a benchmark's label files from the official archive.

    Args:
        name: ``coco_stuff_171`` (from stuffthingmaps), ``ade20k_150`` (ADEChallengeData2016), ``ade20k_847`` and
            ``ade20k_part_234`` (the full release ADE20K_2021_17_01), ``pascal_context_59`` and ``pascal_context_459``
            (VOC2010 with trainval/*.mat and labels.txt), or ``pascal_voc_20`` (VOC2012 with SegmentationClassAug).
        source: the unpacked archive.
        target: the benchmark's folder, usually ``source`` itself; pictures that lie elsewhere are linked.
        progress: show a progress bar.

    Returns:
        What was found. A file that is wrong is left out and reported.

    Raises:
        ValueError: no such conversion.
        DatasetError: ``source`` is not the archive.
    """
    if name not in PREPARED:
        raise ValueError(f"nothing is prepared for {name!r}; there are {', '.join(PREPARED)}")
    if name == "ade20k_part_234":
        return build_ade20k_part_234(source, target, progress=progress)
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if not source.is_dir():
        raise DatasetError(source, "no such folder", "Give the folder of the unpacked archive.")
    vocabulary = load_vocabulary(name)
    report = PrepareReport(vocabulary.title, str(target), found={"classes": pd.Series(0, index=vocabulary.classes)})
    others = {"ade20k_847": _ade20k_847, "pascal_context_59": _context, "pascal_context_459": _context}
    splits = others.get(name, _label_folders)(source, name)
    if not splits:
        wanted = "; ".join(place.labels for place in DATASETS[name].places.values())
        raise DatasetError(source, "holds no official labels of the benchmark", f"From them {wanted} would be made.")
    for split, found in splits.items():
        _prepare_split(name, split, found, report, progress)
    report.note_missing()
    return report


def _prepare_split(name: str, split: str, source: Source, report: PrepareReport, progress: bool) -> None:
    place, target, vocabulary = DATASETS[name].places[split], Path(report.root), load_vocabulary(name)
    ignore = vocabulary.ignore_label
    folder, pictures = target / place.labels, target / place.images
    folder.mkdir(parents=True, exist_ok=True)
    if source.picture is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    elif not pictures.exists() and source.pictures is not None and source.pictures.is_dir():
        pictures.parent.mkdir(parents=True, exist_ok=True)
        pictures.symlink_to(source.pictures.resolve(), target_is_directory=True)

    def convert(path: Path) -> np.ndarray | Problem:
        try:
            labels = source.read(path)
            if source.picture is not None:
                labels = _store_picture(source.picture(path), path, labels, pictures)
        except DatasetError as error:
            return Problem.of(error)
        pixels = np.bincount(labels[labels != ignore], minlength=len(vocabulary.classes))
        if pixels.any():
            suffix, dtype = (".tif", np.uint16) if ignore > 255 else (".png", np.uint8)
            write_picture(folder / f"{path.stem.removesuffix('_seg')}{suffix}", labels.astype(dtype))
        return pixels

    results = parallel_map(convert, source.labels, progress=progress, what=f"preparing {split}")
    written = [result for result in results if isinstance(result, np.ndarray)]
    report.problems += [result for result in results if isinstance(result, Problem)]
    report.found["classes"] += sum(written, np.zeros(len(vocabulary.classes), np.int64))
    empty = sum(not pixels.any() for pixels in written)
    report.counts[split] = {
        "label files": len(source.labels),
        "written": len(written) - empty,
        "without any class, not written": empty,
        "left out": len(results) - len(written),
    }


def _store_picture(picture: Path, label_file: Path, labels: np.ndarray, folder: Path) -> np.ndarray:
    """Store the picture of a label map, both reduced to a short side of 512 if that is longer; returns the labels."""
    image = read_image(picture, labels.shape)
    check_same_size(picture, tuple(image.shape[-2:]), label_file, labels.shape)
    height, width = labels.shape
    if min(height, width) > ADE_SHORTEST:
        long = round(max(height, width) / min(height, width) * ADE_SHORTEST)
        size = (ADE_SHORTEST, long) if height < width else (long, ADE_SHORTEST)
        # Bilinear without antialiasing and nearest by the corner, as OpenCV's resize.
        image = F.interpolate(image[None].float(), size, mode="bilinear")[0].round().to(torch.uint8)
        labels = resize_labels(torch.from_numpy(labels), size, "floor").numpy()
    write_picture(folder / picture.name, image.permute(1, 2, 0).numpy(), quality=95)
    return labels


@cache
def _facts() -> dict[str, list]:
    return json.loads(files(__package__).joinpath("semantic_source.json").read_text(encoding="utf-8"))


def _table(raw_ids: Iterable[int], ignore_label: int, length: int = 256) -> np.ndarray:
    """Look-up table from official ids to places in ``raw_ids``, int64 (length,)."""
    table = np.full(length, ignore_label, np.int64)
    raw_ids = list(raw_ids)
    table[raw_ids] = np.arange(len(raw_ids))
    return table


def _label_folders(source: Path, name: str) -> dict[str, Source]:
    """Sources of the splits whose folder of PNG labels is there; their ids are 1..N where no table says otherwise."""
    classes = len(load_vocabulary(name).classes)
    table, found = _table(_facts().get(f"{name}_raw_ids") or range(1, classes + 1), 255), {}
    for split, place in DATASETS[name].official.items():
        if not (source / place.labels).is_dir():
            continue
        names = there = list_files(source / place.labels, (".png",))
        if place.listed:
            check_file(source / place.listed, "The official archive has it: unpack it again.")
            names = (source / place.listed).read_text(encoding="utf-8").split()
        paths = [there.get(name, source / place.labels / f"{name}.png") for name in names]
        found[split] = Source(paths, lambda path: table[read_labels(path)], source / place.images)
    return found


def _ade20k_847(source: Path, name: str) -> dict[str, Source]:
    table = _table(_facts()["ade20k_847_codes"], 65535, _CODES)
    pictures = {split: paths for split, paths in find_pictures(source).items() if paths}
    return {
        split: Source(
            [path.with_name(f"{path.stem}_seg.png") for path in paths],
            lambda path: table[read_codes(path)[0]],
            picture=lambda path: path.with_name(f"{path.stem.removesuffix('_seg')}.jpg"),
        )
        for split, paths in pictures.items()
    }


def _context(source: Path, name: str) -> dict[str, Source]:
    ids = _context_ids(source / "labels.txt")
    vocabulary = load_vocabulary(name)
    if missing := [title for title in vocabulary.classes if title not in ids]:
        what = f"lists no class {missing[0]!r} ({len(missing)} of {len(vocabulary.classes)} are missing)"
        raise DatasetError(source / "labels.txt", what, "Use the labels.txt of Pascal-Context.")
    table = _table((ids[title] for title in vocabulary.classes), vocabulary.ignore_label, _CODES)
    paths = [source / "trainval" / f"{image_id}.mat" for image_id in _facts()["pascal_context_val"]]
    if not (source / "trainval").is_dir():
        return {}
    return {"val": Source(paths, lambda path: table[_label_map(path)], source / "JPEGImages")}


def _context_ids(path: Path) -> dict[str, int]:
    """``{class: id}`` of a list whose lines are ``1: accordion``."""
    check_file(path, "Pascal-Context is distributed with it.")
    lines = [line.partition(":") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        return {title.strip(): int(number) for number, _, title in lines}
    except ValueError as error:
        raise DatasetError(path, f"has a line that is not 'number: class' ({error})") from None


def _label_map(path: Path) -> np.ndarray:
    """``LabelMap`` of a Pascal-Context file, (H, W)."""
    check_file(path, "Unpack trainval.tar.gz of Pascal-Context again.")
    try:
        labels = np.asarray(loadmat(path)["LabelMap"])
    except (OSError, ValueError, KeyError, NotImplementedError, TypeError, MatReadError) as error:
        raise DatasetError(path, f"holds no LabelMap ({type(error).__name__}: {error})") from None
    if labels.ndim != 2 or labels.min(initial=0) < 0 or labels.max(initial=0) >= _CODES:
        raise DatasetError(path, f"has a LabelMap of shape {labels.shape} with values that are no classes")
    return labels.astype(np.int64)

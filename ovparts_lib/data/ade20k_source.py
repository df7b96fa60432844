"""ADE20K-Part-234 from its source: the released formats, written from the official full release of ADE20K.

For those who cannot get the archive that OV-PARTS released. Classes follow the mapping OV-PARTS published; how exactly
its authors chose pictures and drew instances is not published, so a built dataset is close to the released one and not
the same: every picture with at least one labelled part pixel is taken, with all visible instances of whole objects of
the 44 classes in it. A file in the dataset's folder says that it was built.
"""

import json
import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovparts_lib.atomic import replacing, write_atomically
from ovparts_lib.data.ade20k_release import ReleaseClasses, ReleasePhoto
from ovparts_lib.data.cache import files_key, read_cache, write_cache
from ovparts_lib.data.coco_writing import annotation, encode_rle, write_coco
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.readers.ade20k_part_234 import MARKER
from ovparts_lib.data.registry import DATASETS
from ovparts_lib.data.scan import parallel_map
from ovparts_lib.data.verification_report import PrepareReport, Problem
from ovparts_lib.images import write_picture
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

_LAYOUT = DATASETS["ade20k_part_234"]
FOLDERS = _LAYOUT.folders
IMAGES, PARTS = (files.folder for files in _LAYOUT.kinds.values())
RELEASE = "ADE20K_2021_17_01"
RULES = "1"  # part of the key of every picture: raise it when the outcome changes


def build_ade20k_part_234(source: str | Path, target: str | Path, *, progress: bool = False) -> PrepareReport:
    """Write ADE20K-Part-234 in the released layout from the full release of ADE20K.

    A picture with a missing or wrong file is left out and reported, and does not stop the build. Every file is written
    whole or not at all. A build that was stopped goes on where it was; one that is repeated does only what changed.

    Args:
        source: ``ADE20K_2021_17_01``, or a folder that holds it.
        target: where to write the dataset; empty, not there yet, or built before.
        progress: show a progress bar.

    Returns:
        What was found. (The 16-shot list of few-shot settings cannot be built: how it was drawn is not published.)

    Raises:
        DatasetError: ``source`` is not the release, or ``target`` holds something else.
    """
    pictures = find_pictures(source)
    target = Path(target).expanduser()
    _claim(target)
    vocabulary = load_vocabulary("ade20k_part_234")
    classes = ReleaseClasses.load(vocabulary)
    found = {
        "objects": pd.Series(0, index=vocabulary.objects),
        "parts": pd.Series(0, index=vocabulary.parts),
    }
    report = PrepareReport(vocabulary.title, str(target), found=found)
    for name, paths in pictures.items():
        for folder in (IMAGES, PARTS):
            (target / folder / FOLDERS[name]).mkdir(parents=True, exist_ok=True)
        results = parallel_map(
            lambda path, name=name: _convert(ReleasePhoto(path, classes), target, name),
            paths,
            progress=progress,
            what=f"building {name}",
        )
        report.problems += [result for result in results if isinstance(result, Problem)]
        found = [result for result in results if not isinstance(result, Problem)]
        _remove_dropped(target, name, {entry["name"] for entry in found if entry["instances"] is not None})
        _write_instances(target, name, found, vocabulary)
        _count(report, name, len(paths), found)
    report.note_missing()
    return report


def find_pictures(source: str | Path) -> dict[str, list[Path]]:
    """The pictures of the release, by name: ``{"train": […], "val": […]}``.

    Args:
        source: ``ADE20K_2021_17_01``, a folder that holds it, or its ``images`` or ``images/ADE``.

    Raises:
        DatasetError: no such folder, no picture in it, two pictures of one name, or a release before 2021.
    """
    source = Path(source).expanduser()
    tops = [source / inside for inside in (f"{RELEASE}/images/ADE", "images/ADE", "ADE", ".")]
    top = next((top for top in tops if any((top / folder).is_dir() for folder in FOLDERS.values())), None)
    if top is None:
        what = "is not there" if not source.exists() else "holds neither images/ADE/training nor images/ADE/validation"
        advice = f"Give the folder {RELEASE} as the authors of ADE20K distribute it."
        raise DatasetError(source, what, advice)
    pictures = {name: _pictures_in(top / folder) for name, folder in FOLDERS.items()}
    every = [path for paths in pictures.values() for path in paths]
    if not every:
        raise DatasetError(top, "holds no pictures", f"Unpack {RELEASE} again: folders of scenes with .jpg files.")
    if not any(path.with_suffix(".json").is_file() for path in every):
        advice = f"This reads {RELEASE}; earlier releases, and the scene parsing benchmark, are other formats."
        raise DatasetError(top, "has no NAME.json beside any picture", advice)
    return pictures


def _pictures_in(folder: Path) -> list[Path]:
    paths = [p for p in folder.rglob("*") if p.suffix.lower() == ".jpg" and not p.name.startswith(".")]
    paths.sort(key=lambda path: path.stem)
    for one, other in pairwise(paths):
        if one.stem == other.stem:
            raise DatasetError(other, f"has the same name as {one}", "Keep one of the two.")
    return paths


def _claim(target: Path) -> None:
    """Mark a folder as built here, or refuse one that holds anything else, such as the released archive."""
    if target.exists() and not target.is_dir():
        raise DatasetError(target, "is a file", "Name a folder to write the dataset to.")
    if target.is_dir() and any(target.iterdir()) and not (target / MARKER).is_file():
        what = "holds files that were not built from the release, which are not overwritten"
        raise DatasetError(target, what, "Name an empty folder.")
    target.mkdir(parents=True, exist_ok=True)
    marker = {"dataset": "ADE20K-Part-234", "built_from": RELEASE, "rules": RULES}
    write_atomically(target / MARKER, json.dumps(marker, indent=1))


def _convert(photo: ReleasePhoto, target: Path, name: str) -> dict[str, Any] | Problem:
    """Write picture and part labels of one photograph; what the instance file and the report need, or what is wrong.

    ``instances`` of the result is None for a photograph without part pixels, which is not taken.
    """
    stem = photo.picture.stem
    picture = target / IMAGES / FOLDERS[name] / f"{stem}.jpg"
    labels = target / PARTS / FOLDERS[name] / f"{stem}.png"
    cache = _build_cache(target, name)
    try:
        key = files_key(photo.sources(), photo.picture.parent, RULES, photo.classes.vocabulary.hash)
        entry = read_cache(cache, stem, key)
        if entry is None or (entry["instances"] is not None and not (labels.is_file() and picture.is_file())):
            entry, part_map = _entry_of(photo)
            if entry["instances"] is not None:
                write_picture(labels, part_map)
                with replacing(picture) as partial:
                    shutil.copyfile(photo.picture, partial)
            write_cache(cache, stem, key, entry)
    except DatasetError as error:
        return Problem.of(error)
    return entry


def _entry_of(photo: ReleasePhoto) -> tuple[dict[str, Any], np.ndarray]:
    (height, width), part_map = photo.size, photo.part_map()
    ignore = photo.classes.vocabulary.ignore_label
    pixels = np.bincount(part_map[part_map != ignore])
    items = photo.objects()
    entry: dict[str, Any] = {
        "name": photo.picture.stem,
        "height": height,
        "width": width,
        "pixels": {str(part): int(pixels[part]) for part in np.flatnonzero(pixels)},
        "missing levels": max(photo.deepest_level() - len(photo.part_paths), 0),
        "hidden": 0,
        "instances": None,
    }
    if entry["pixels"]:
        entry["instances"] = []
        for object_id, item in items:
            region = photo.visible(item)
            if not region.any():
                entry["hidden"] += 1
                continue
            parts = np.unique(part_map[region])
            instance = annotation(object_id, region, encode_rle(region))
            entry["instances"].append(instance | {"part_category_id": parts[parts != ignore].tolist()})
    return entry, part_map


def _remove_dropped(target: Path, name: str, kept: set[str]) -> None:
    """Remove what an earlier build wrote for photographs that are not taken any more, and nothing else."""
    for built in _build_cache(target, name).glob("*.json"):
        if built.stem not in kept:
            for folder, suffix in ((IMAGES, ".jpg"), (PARTS, ".png")):
                (target / folder / FOLDERS[name] / (built.stem + suffix)).unlink(missing_ok=True)


def _build_cache(target: Path, name: str) -> Path:
    return target / ".ovparts_cache" / "build" / name


def _write_instances(target: Path, name: str, found: Iterable[dict[str, Any]], vocabulary: PartVocabulary) -> None:
    pictures = (
        (f"{entry['name']}.jpg", (entry["height"], entry["width"]), entry["instances"])
        for entry in found
        if entry["instances"] is not None
    )
    write_coco(target / f"ade20k_instance_{name}.json", pictures, vocabulary.objects)


def _count(report: PrepareReport, name: str, pictures: int, found: list[dict[str, Any]]) -> None:
    taken = [entry for entry in found if entry["instances"] is not None]
    instances = [instance["category_id"] for entry in taken for instance in entry["instances"]]
    report.found["objects"] += np.bincount(instances, minlength=len(report.found["objects"]))
    for entry in taken:
        for part, pixels in entry["pixels"].items():
            report.found["parts"].iloc[int(part)] += pixels
    report.counts[name] = {
        "pictures": pictures,
        "pictures taken": len(taken),
        "pictures without a part of the vocabulary": len(found) - len(taken),
        "pictures left out for a wrong file": pictures - len(found),
        "instances": len(instances),
        "instances that are hidden completely, left out": sum(entry["hidden"] for entry in taken),
        "pictures whose deepest parts have no PNG": sum(entry["missing levels"] > 0 for entry in found),
    }

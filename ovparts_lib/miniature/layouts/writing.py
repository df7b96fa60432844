"""What every layout of the miniature is made of, and the forms that COCO files hold masks in."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from skimage.measure import find_contours

from ovparts_lib.data.coco_writing import encode_rle, write_coco
from ovparts_lib.data.few_shot import draw_from

SHOTS = 16


@dataclass(frozen=True)
class Written:
    """What is known of a picture once its files are written.

    Attributes:
        split: ``train`` or ``val``.
        image_id: base name of the picture.
        file_name: of the picture, relative to the dataset's folder.
        caption: one sentence about it.
        objects: names of the objects it shows, in the words of the dataset.
        size: (height, width).
        annotations: of its COCO file, without ids; none where labels are pictures.
    """

    split: str
    image_id: str
    file_name: str
    caption: str
    objects: tuple[str, ...]
    size: tuple[int, int]
    annotations: tuple[dict[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Layout:
    """How a miniature is written in the layout of one dataset.

    Attributes:
        released_folder: name of the dataset's folder as the release has it, for entries of the few-shot list.
        folders: what to make below the root before pictures are written, for each split.
        classes: the classes of the few-shot draw, in its order.
        write: ``write(root, seed, split, index)`` writes the files of one picture; it runs in other processes too.
        finish: ``finish(root, pictures)`` writes what is about all pictures; nothing where labels lie beside them.
    """

    released_folder: str
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    write: Callable[[Path, int, str, int], Written]
    finish: Callable[[Path, Sequence[Written]], None] = lambda root, pictures: None


def few_shot_ids(classes: Sequence[str], pictures: Sequence[Written], seed: int) -> list[str]:
    """Up to ``SHOTS`` training pictures of every class; the sorted union of their ids."""
    train = [picture for picture in pictures if picture.split == "train"]
    candidates = {name: [p.image_id for p in train if name in p.objects] for name in classes}
    return list(draw_from(candidates, SHOTS, seed).image_ids)


def write_shot_list(root: Path, layout: Layout, pictures: Sequence[Written], seed: int) -> int:
    """Write ``train_16shot.json`` with the paths of the released layout; returns the number of its pictures."""
    shots, paths = few_shot_ids(layout.classes, pictures, seed), {p.image_id: p.file_name for p in pictures}
    entries = [{"file_name": f"datasets/{layout.released_folder}/{paths[image_id]}"} for image_id in shots]
    (root / f"train_{SHOTS}shot.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return len(shots)


def write_annotations(path: Path, pictures: Sequence[Written], categories: Sequence[str]) -> None:
    """Write a COCO file of pictures, whose file names it gives without their folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = ((picture.file_name.rsplit("/", 1)[-1], picture.size, picture.annotations) for picture in pictures)
    write_coco(path, listed, categories)


FORMS = ("polygons", "rle", "compressed rle")


def segmentation(mask: np.ndarray, number: int) -> list[list[float]] | dict[str, Any]:
    """A mask, bool (h, w), in a form that a COCO file may hold it in.

    Args:
        mask: the pixels.
        number: consecutive numbers take ``FORMS`` in turn, but for ``rle`` where polygons, which cannot have holes,
            would not give the mask back exactly.
    """
    form = FORMS[number % len(FORMS)]
    if form == "polygons":
        polygons = outlines(mask)
        if np.array_equal(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))), mask):
            return polygons
    if form == "compressed rle":
        return encode_rle(mask)
    return {"size": list(mask.shape), "counts": run_lengths(mask)}


def outlines(mask: np.ndarray) -> list[list[float]]:
    """Polygons ``[x0, y0, x1, y1, ...]`` around the pieces (and holes) of a mask, midway between pixel centres."""
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    # Row, column of the padded mask's pixel centres -> x, y, where a pixel's corner is at whole numbers.
    return [(contour[:-1, ::-1] - 0.5).ravel().tolist() for contour in contours]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... down the columns, starting with 0 (an uncompressed COCO RLE)."""
    values = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(values, prepend=0)) if values.size else np.zeros(0, int)
    return np.diff(np.concatenate([[0], changes, [values.size]])).tolist()

"""Masks in the forms that COCO files hold them in."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from skimage.measure import find_contours

FORMS = ("polygons", "rle", "compressed rle")


def annotation(category_id: int, mask: np.ndarray, *, form: int) -> dict[str, Any]:
    """A COCO annotation of a mask, bool (h, w) with at least one pixel, without its own and its image's id.

    Args:
        category_id: what the mask shows.
        mask: the pixels. One with a hole in it is never written as polygons, which could not say so.
        form: any number; consecutive numbers take the forms in turn.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
        "area": int(mask.sum()),
        "segmentation": segmentation(mask, FORMS[form % len(FORMS)]),
    }


def segmentation(mask: np.ndarray, form: str) -> list[list[float]] | dict[str, Any]:
    """A mask, bool (h, w), in one of ``FORMS``; ``rle`` where polygons would not give it back exactly."""
    if form == "polygons":
        polygons = outlines(mask)
        if np.array_equal(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))), mask):
            return polygons
    if form == "compressed rle":
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
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

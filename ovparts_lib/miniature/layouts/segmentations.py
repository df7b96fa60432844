"""Masks in the forms that COCO files hold them in."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from skimage.measure import find_contours

from ovparts_lib.data.coco_writing import encode_rle

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

"""Annotation files in the format of COCO, as :mod:`ovparts_lib.data.coco_instances` reads them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovparts_lib.atomic import write_atomically


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Compressed RLE of a mask, bool (H, W), as it stands in an annotation file."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def annotation(category_id: int, mask: np.ndarray, segmentation: Any) -> dict[str, Any]:
    """The annotation of a mask, bool (H, W) with at least one pixel, without its own and its image's id."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
        "area": int(mask.sum()),
        "segmentation": segmentation,
    }


def write_coco(
    path: Path, pictures: Iterable[tuple[str, Sequence[int], Iterable[dict[str, Any]]]], categories: Sequence[str]
) -> None:
    """Write an annotation file; ids of images and annotations count from 1.

    Args:
        path: the file.
        pictures: of each picture the file name, (height, width) and its annotations.
        categories: their names, by id.
    """
    images, annotations = [], []
    for number, (name, (height, width), found) in enumerate(pictures, 1):
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for entry in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
    listed = [{"id": number, "name": name} for number, name in enumerate(categories)]
    write_atomically(path, json.dumps({"images": images, "annotations": annotations, "categories": listed}))

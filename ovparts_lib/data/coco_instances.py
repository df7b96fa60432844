"""Object instances in the annotation format of COCO: reading, checking and rasterising them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovparts_lib.data.records import DatasetError

AGAIN = "Download or unpack the annotation file again."
BAD_POLYGON = "polygons with fewer than 3 points or an odd number of coordinates, dropped"
NO_POLYGON = "annotations without any valid polygon, dropped"
NO_SEGMENTATION = "annotations without a segmentation, dropped"


@dataclass(frozen=True, eq=False)
class CocoInstance:
    """One annotation.

    Attributes:
        id: unique in its file.
        category_id: as the file has it.
        segmentation: polygons as float64 arrays x0, y0, x1, y1, …; or an RLE ``{"size": [h, w], "counts": …}``, its
            counts a list (uncompressed) or a string (compressed).
    """

    id: int
    category_id: int
    segmentation: tuple[np.ndarray, ...] | dict[str, Any]


@dataclass(frozen=True, eq=False)
class CocoImage:
    """One picture and its annotations in file order.

    Attributes:
        id: unique in its file.
        file_name: relative to the folder of pictures.
        height: in pixels.
        width: in pixels.
        instances: what is annotated in it.
    """

    id: int
    file_name: str
    height: int
    width: int
    instances: tuple[CocoInstance, ...]


@dataclass(frozen=True, eq=False)
class CocoFile:
    """An annotation file.

    Attributes:
        path: of the file.
        images: by ascending id, the order in which the released code visits them.
        dropped: what was left out, and how often.
        categories: (id, name) of each entry of ``categories`` that has both; nothing is concluded from them here.
    """

    path: Path
    images: tuple[CocoImage, ...]
    dropped: Mapping[str, int]
    categories: tuple[tuple[int, str], ...] = ()

    @property
    def instances(self) -> int:
        """Number of annotations kept."""
        return sum(len(image.instances) for image in self.images)


def read_coco(path: Path, classes: int) -> CocoFile:
    """Read an annotation file.

    As the released code does, polygons with fewer than 3 points or an odd number of coordinates are dropped, and so are
    annotations of which no polygon is left; unlike it, annotations without a segmentation are dropped too, where it
    fails later. All are counted.

    Args:
        path: a JSON file with ``images`` and ``annotations``.
        classes: category ids are 0..classes - 1.

    Raises:
        DatasetError: the file is missing or no such JSON; an id is missing, repeated or unknown; a category is out of
            range; a segmentation is of no known form; an annotation has ``ignore`` set.
    """
    data = _read_json(path)
    images: dict[int, tuple[str, int, int]] = {}
    for number, entry in enumerate(data["images"]):
        where = f"entry {number} of images"
        image_id = _whole(entry, "id", where, path)
        if image_id in images:
            raise DatasetError(f"two images have the id {image_id}", file=path, what_to_do=AGAIN)
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or name.startswith("/") or ".." in name.split("/"):
            raise DatasetError(f"{where} has the file_name {name!r}", file=path, what_to_do=AGAIN)
        height, width = (_whole(entry, side, where, path, least=1) for side in ("height", "width"))
        images[image_id] = (name, height, width)
    names = Counter(name for name, _, _ in images.values())
    if repeated := [name for name, times in names.items() if times > 1]:
        raise DatasetError(f"{repeated[0]} is listed {names[repeated[0]]} times", file=path, what_to_do=AGAIN)

    dropped: Counter[str] = Counter()
    of_image: dict[int, list[CocoInstance]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for number, entry in enumerate(data["annotations"]):
        instance_id = _whole(entry, "id", f"entry {number} of annotations", path)
        where = f"annotation {instance_id}"
        if instance_id in seen:
            raise DatasetError(f"two annotations have the id {instance_id}", file=path, what_to_do=AGAIN)
        seen.add(instance_id)
        image_id = _whole(entry, "image_id", where, path)
        if image_id not in images:
            raise DatasetError(f"{where} is of image {image_id}, which is not listed", file=path, what_to_do=AGAIN)
        category_id = _whole(entry, "category_id", where, path)
        if category_id >= classes:
            raise DatasetError(
                f"{where} has category_id {category_id}; ids are 0..{classes - 1}",
                file=path,
                what_to_do="Use the file released with this dataset: its ids start at 0 and index the class list.",
            )
        if entry.get("ignore", 0):
            raise DatasetError(f"{where} has 'ignore' set, which this format does not use", file=path, what_to_do=AGAIN)
        segmentation = _segmentation(entry.get("segmentation"), where, path, dropped)
        if segmentation is not None:
            of_image[image_id].append(CocoInstance(instance_id, category_id, segmentation))
    listed = tuple(CocoImage(i, *images[i], tuple(of_image[i])) for i in sorted(images))
    categories = data.get("categories")
    entries = [entry for entry in categories if isinstance(entry, dict)] if isinstance(categories, list) else []
    named = tuple((entry["id"], entry["name"]) for entry in entries if {"id", "name"} <= set(entry))
    return CocoFile(path, listed, dict(dropped), named)


def rasterise(instance: CocoInstance, image: CocoImage, path: Path) -> np.ndarray:
    """The pixels of an instance, bool (H, W); see :func:`rasterise_columns`."""
    mask = np.zeros((image.height, image.width), bool)
    columns, inside = rasterise_columns(instance, image, path)
    mask[:, columns] = inside
    return mask


def rasterise_columns(instance: CocoInstance, image: CocoImage, path: Path) -> tuple[slice, np.ndarray]:
    """The pixels of an instance in the columns it spans; polygons as pycocotools draws them, clipped to the picture.

    Most instances are much smaller than their picture, and run-length codes go column by column.

    Args:
        instance: one of ``image.instances``.
        image: gives the size.
        path: of the annotation file, for messages.

    Returns:
        The columns, and bool (H, columns); an instance without a pixel spans none.

    Raises:
        DatasetError: the instance lies outside the picture, its RLE is of another size or damaged, or a coordinate is
            no number.
    """
    size, segmentation = (image.height, image.width), instance.segmentation
    where = f"annotation {instance.id} of {image.file_name}"
    if isinstance(segmentation, dict):
        runs = _runs_of(segmentation, size, where, path)
    else:
        points = np.concatenate(segmentation)
        _check_inside(points[0::2], points[1::2], size, where, path)
        rle = coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in segmentation], *size))
        runs = compressed_counts(rle["counts"].decode("ascii"))
    return _decode_columns(runs, *size)


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Compressed RLE of a mask, bool (H, W), as it stands in an annotation file."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def compressed_counts(text: str) -> np.ndarray:
    """Run lengths, int64, of a compressed RLE string.

    Each character carries 5 bits of a number, least significant first, and whether more follow; from the fourth on,
    a number is the difference to the one two places before (``maskApi.c`` of COCO).

    Raises:
        ValueError: the string ends within a number or holds another character.
    """
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes > 63)).any() or (codes.size and codes[-1] & 0x20):
        raise ValueError("a damaged string")
    if not codes.size:
        return np.zeros(0, np.int64)
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:
        raise ValueError("a number of more than 32 bits")
    shifts = 5 * (np.arange(codes.size) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((codes & 0x1F) << shifts, first)
    negative = (codes[last] & 0x10) != 0
    numbers -= np.where(negative, np.int64(1) << (shifts[last] + 5), 0)
    # The first number stands alone: the third is no difference to it.
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers


def _runs_of(rle: dict[str, Any], size: tuple[int, int], where: str, path: Path) -> np.ndarray:
    """Run lengths of an RLE that fills the picture exactly (pycocotools reads past the end of one that is short)."""
    if list(rle["size"]) != list(size):
        raise DatasetError(
            f"{where} is {'×'.join(map(str, rle['size']))} (height × width), but the image {size[0]}×{size[1]}",
            file=path,
            what_to_do=AGAIN,
        )
    counts = rle["counts"]
    try:
        runs = compressed_counts(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        if runs.ndim != 1:
            raise ValueError("its counts are nested lists")
        if (runs < 0).any() or runs.sum() != size[0] * size[1]:
            raise ValueError(f"its runs add up to {runs.sum()} pixels, not {size[0] * size[1]}")
    except (ValueError, TypeError, OverflowError) as error:
        raise DatasetError(f"{where} has a damaged RLE: {error}", file=path, what_to_do=AGAIN) from None
    return runs


def _decode_columns(runs: np.ndarray, height: int, width: int) -> tuple[slice, np.ndarray]:
    """Runs of outside and inside pixels in turn, down the columns, without the empty columns on either side."""
    inside = np.arange(len(runs)) % 2 == 1
    filled = np.flatnonzero(inside & (runs > 0))
    if not filled.size:
        return slice(0, 0), np.zeros((height, 0), bool)
    ends = np.cumsum(runs)
    left, right = int((ends - runs)[filled[0]]) // height, int(ends[filled[-1]] - 1) // height + 1
    runs, inside = runs[: filled[-1] + 1], inside[: filled[-1] + 1]
    pixels = np.zeros((right - left) * height, bool)
    decoded = np.repeat(inside, runs)[left * height :]
    pixels[: decoded.size] = decoded
    return slice(left, right), pixels.reshape(right - left, height).T


def _check_inside(x: np.ndarray, y: np.ndarray, size: tuple[int, int], where: str, path: Path) -> None:
    """Raise DatasetError for what cannot belong to the picture; a polygon may reach a little over its border."""
    height, width = size
    box = f"x {x.min():g}..{x.max():g}, y {y.min():g}..{y.max():g}, in an image of {height}×{width} (height × width)"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DatasetError(f"{where} has a coordinate that is no finite number", file=path, what_to_do=AGAIN)
    apart = x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height
    far = max(-x.min(), x.max() - width, -y.min(), y.max() - height) > max(height, width)
    if apart or far:
        raise DatasetError(
            f"{where} lies {'outside' if apart else 'far outside'} its image: {box}",
            file=path,
            what_to_do="The annotation belongs to another image, or height and width are wrong: unpack the file again.",
        )


def _read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError("no such file", file=path, what_to_do="Put the annotation file there.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"is not readable JSON ({type(error).__name__}: {error})", file=path, what_to_do=AGAIN
        ) from None
    for key in ("images", "annotations"):
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"holds no list of {key} in the format of COCO", file=path, what_to_do=AGAIN)
    return data


def _whole(entry: dict[str, Any], key: str, where: str, path: Path, least: int = 0) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DatasetError(
            f"{where} has {key} {value!r}, which should be a whole number from {least}", file=path, what_to_do=AGAIN
        )
    return value


def _segmentation(
    value: Any, where: str, path: Path, dropped: Counter[str]
) -> tuple[np.ndarray, ...] | dict[str, Any] | None:
    if value is None:
        dropped[NO_SEGMENTATION] += 1
        return None
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if isinstance(size, list) and len(size) == 2 and isinstance(counts, list | str):
            return {"size": size, "counts": counts}
    elif isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
        polygons = [polygon for polygon in value if len(polygon) % 2 == 0 and len(polygon) >= 6]
        dropped[BAD_POLYGON] += len(value) - len(polygons)
        if not polygons:
            dropped[NO_POLYGON] += 1
            return None
        try:
            arrays = tuple(np.array(polygon, np.float64) for polygon in polygons)
            if any(array.ndim != 1 for array in arrays):
                raise ValueError("nested")
        except (ValueError, TypeError):
            raise DatasetError(
                f"{where} has a polygon that is no flat list of numbers", file=path, what_to_do=AGAIN
            ) from None
        return arrays
    raise DatasetError(
        f"{where} has a segmentation that is neither polygons nor an RLE with size and counts",
        file=path,
        what_to_do=AGAIN,
    )

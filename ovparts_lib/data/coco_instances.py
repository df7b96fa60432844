"""Object instances in the annotation format of COCO: reading, checking and rasterising them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovparts_lib.data.files import DatasetError, Refuse, raise_error, read_json
from ovparts_lib.images import MAX_PIXELS

BAD_POLYGON = "polygons with fewer than 3 points or an odd number of coordinates, dropped"
NO_POLYGON = "annotations without any valid polygon, dropped"
MAX_POINTS = 200_000  # of one annotation: drawing more takes gigabytes, and no outline of a picture has them
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

    @property
    def name(self) -> str:
        """Its file name without extension (with its folder, if there is one)."""
        return PurePosixPath(self.file_name).with_suffix("").as_posix()


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

    @cached_property
    def by_name(self) -> dict[str, CocoImage]:
        """The images by their names."""
        return {image.name: image for image in self.images}

    @property
    def instances(self) -> int:
        """Number of annotations kept."""
        return sum(len(image.instances) for image in self.images)


def read_coco(path: Path, classes: int, refuse: Refuse = raise_error, no_annotations: str = "") -> CocoFile:
    """Read an annotation file.

    As the released code does, polygons with fewer than 3 points or an odd number of coordinates are dropped, and so are
    annotations of which no polygon is left; unlike it, annotations without a segmentation are dropped too, where it
    fails later. All are counted. Backslashes in file names are read as slashes.

    Args:
        path: a JSON file with ``images`` and ``annotations``.
        classes: category ids are 0..classes - 1.
        refuse: gets an error for each entry that is wrong; if it does not raise, the entry is left out.
        no_annotations: advice where the file lists pictures alone.

    Raises:
        DatasetError: the file is missing or no such JSON; and, by way of ``refuse``: an id is missing, repeated or
            unknown; a file name or size is no such; a category is out of range; a segmentation is of no known form; an
            annotation has ``ignore`` set.
    """
    data = _read_entries(path, no_annotations)
    images: dict[int, tuple[str, int, int]] = {}
    names: set[str] = set()
    unusable: set[Any] = set()  # ids of images whose entry is wrong, which is reported once
    for number, entry in enumerate(data["images"]):
        try:
            where = f"entry {number} of images"
            image_id = _whole(entry, "id", where)
            unusable.add(image_id)
            if image_id in images:
                raise ValueError(f"two images have the id {image_id}")
            name = _file_name(entry.get("file_name"), where)
            height, width = (_whole(entry, side, where, least=1) for side in ("height", "width"))
            if height * width > MAX_PIXELS:
                raise ValueError(f"{where} has {height}×{width} pixels (height × width)")
            if name in names:
                raise ValueError(f"{name} is listed more than once")
        except ValueError as error:
            refuse(DatasetError(path, *error.args))
            continue
        names.add(name)
        unusable.discard(image_id)
        images[image_id] = (name, height, width)

    dropped: Counter[str] = Counter()
    of_image: dict[int, list[CocoInstance]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for number, entry in enumerate(data["annotations"]):
        try:
            instance = _instance(entry, number, classes, seen, dropped)
        except ValueError as error:
            refuse(DatasetError(path, *error.args))
            continue
        image_id = entry["image_id"]
        if image_id in of_image and instance is not None:
            of_image[image_id].append(instance)
        elif image_id not in of_image and image_id not in unusable:
            refuse(DatasetError(path, f"annotation {entry['id']} is of image {image_id}, which is not listed"))
    listed = tuple(CocoImage(i, *images[i], tuple(of_image[i])) for i in sorted(images))
    categories = data.get("categories")
    entries = [entry for entry in categories if isinstance(entry, dict)] if isinstance(categories, list) else []
    named = tuple((entry.get("id"), entry["name"]) for entry in entries if isinstance(entry.get("name"), str))
    return CocoFile(path, listed, dict(dropped), named)


def _instance(
    entry: dict[str, Any], number: int, classes: int, seen: set[int], dropped: Counter[str]
) -> CocoInstance | None:
    """One annotation; None if it is dropped. Raises ValueError saying what is wrong with it, and what to do."""
    instance_id = _whole(entry, "id", f"entry {number} of annotations")
    where = f"annotation {instance_id}"
    if instance_id in seen:
        raise ValueError(f"two annotations have the id {instance_id}")
    seen.add(instance_id)
    _whole(entry, "image_id", where)
    category_id = _whole(entry, "category_id", where)
    if category_id >= classes:
        what = f"{where} has category_id {category_id}; ids are 0..{classes - 1}"
        raise ValueError(what, "Use the file released with this dataset: its ids start at 0 and index the class list.")
    if entry.get("ignore", 0):
        raise ValueError(f"{where} has 'ignore' set, which this format does not use")
    segmentation = _segmentation(entry.get("segmentation"), where, dropped)
    return None if segmentation is None else CocoInstance(instance_id, category_id, segmentation)


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
    try:
        if isinstance(segmentation, dict):
            runs = _runs_of(segmentation, size)
            rle = coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
        else:
            points = np.concatenate(segmentation)
            _check_inside(points[0::2], points[1::2], size)
            rle = coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in segmentation], *size))
    except ValueError as error:
        what, *advice = error.args
        raise DatasetError(path, f"annotation {instance.id} of {image.file_name} {what}", *advice) from None
    left, _, width, _ = coco_mask.toBbox(rle)
    columns = slice(int(left), int(left + width))
    return columns, coco_mask.decode(rle)[:, columns].astype(bool)


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


def _runs_of(rle: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Run lengths of an RLE that fills the picture exactly (pycocotools reads past the end of one that is short)."""
    if list(rle["size"]) != list(size):
        raise ValueError(f"is {'×'.join(map(str, rle['size']))} (height × width), but the image {size[0]}×{size[1]}")
    counts = rle["counts"]
    try:
        runs = compressed_counts(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        if runs.ndim != 1:
            raise ValueError("its counts are nested lists")
        if (runs < 0).any() or runs.sum() != size[0] * size[1]:
            raise ValueError(f"its runs add up to {runs.sum()} pixels, not {size[0] * size[1]}")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"has a damaged RLE: {error}") from None
    return runs


def _check_inside(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ValueError for what cannot belong to the picture; a polygon may reach a little over its border."""
    height, width = size
    box = f"x {x.min():g}..{x.max():g}, y {y.min():g}..{y.max():g}, in an image of {height}×{width} (height × width)"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("has a coordinate that is no finite number")
    apart = x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height
    far = max(-x.min(), x.max() - width, -y.min(), y.max() - height) > max(height, width)
    if apart or far:
        advice = "It is another image's, or height and width are wrong: unpack the file again."
        raise ValueError(f"lies {'outside' if apart else 'far outside'} its image: {box}", advice)


def _read_entries(path: Path, no_annotations: str) -> dict[str, list[dict[str, Any]]]:
    data = read_json(path, "Put the annotation file there.")
    for key in ("images", "annotations"):
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            advice = [no_annotations] if no_annotations and key == "annotations" and key not in data else []
            raise DatasetError(path, f"holds no list of {key} in the format of COCO", *advice)
    return data


def _whole(entry: dict[str, Any], key: str, where: str, least: int = 0) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise ValueError(f"{where} has {key} {_shown(value)}, which should be a whole number from {least}")
    return value


def _file_name(value: Any, where: str) -> str:
    """A path below the folder of pictures, with slashes."""
    name = value.replace("\\", "/") if isinstance(value, str) else ""
    parts = name.split("/")
    if not parts[-1].strip(".") or parts[0].endswith(":") or "\0" in name or {"", ".."} & set(parts):
        raise ValueError(f"{where} has the file_name {_shown(value)}")
    return name.removeprefix("./")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _segmentation(value: Any, where: str, dropped: Counter[str]) -> tuple[np.ndarray, ...] | dict[str, Any] | None:
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
        if (points := sum(map(len, polygons)) // 2) > MAX_POINTS:
            raise ValueError(f"{where} has polygons of {points:,} points; more than {MAX_POINTS:,} are not drawn")
        try:
            arrays = tuple(np.array(polygon, np.float64) for polygon in polygons)
            if any(array.ndim != 1 for array in arrays):
                raise ValueError("nested")
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"{where} has a polygon that is no flat list of numbers of usual size") from None
        return arrays
    raise ValueError(f"{where} has a segmentation that is neither polygons nor an RLE with size and counts")

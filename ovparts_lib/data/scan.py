"""Counting labels: one pass over the label files, from which conditions, empty samples and frequencies follow."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Pixels of each (object, part) pair in each image of a split.

    Attributes:
        image_ids: the images, in listing order.
        rows: int64 (n, 4): index into ``image_ids``, object label, part label, pixels; pixels without a label are
            counted under the ignore label. Rows are sorted by image.
    """

    image_ids: tuple[str, ...]
    rows: np.ndarray

    @classmethod
    def from_images(cls, images: Mapping[str, np.ndarray]) -> Self:
        """From ``{image id: (k, 3) table of object, part, pixels}``."""
        tables = [np.insert(np.asarray(table).reshape(-1, 3), 0, i, axis=1) for i, table in enumerate(images.values())]
        rows = np.concatenate(tables) if tables else np.zeros((0, 4))
        return cls(tuple(images), rows.astype(np.int64))

    @classmethod
    def joined(cls, first: Self, second: Self) -> Self:
        """The images of both, those of ``first`` in front; no image may be in both."""
        offset = np.array([len(first.image_ids), 0, 0, 0])
        return cls(first.image_ids + second.image_ids, np.concatenate([first.rows, second.rows + offset]))

    @cached_property
    def by_image(self) -> dict[str, np.ndarray]:
        """(k, 3) table of each image: object label, part label, pixels."""
        bounds = np.searchsorted(self.rows[:, 0], np.arange(len(self.image_ids) + 1))
        return {name: self.rows[a:b, 1:] for name, a, b in zip(self.image_ids, bounds, bounds[1:], strict=False)}

    def objects_in(self, image_id: str, ignore_label: int) -> list[int]:
        """Object ids that occur in an image, ascending."""
        return [int(label) for label in np.unique(self.by_image[image_id][:, 0]) if label != ignore_label]

    def has_part(self, image_id: str, part_ids: Sequence[int], object_id: int | None = None) -> bool:
        """Whether the image holds a pixel of one of ``part_ids``, on the object ``object_id`` if that is given."""
        table = self.by_image[image_id]
        if object_id is not None:
            table = table[table[:, 0] == object_id]
        return bool(np.isin(table[:, 1], part_ids).any())


def count_labels(object_map: np.ndarray, part_map: np.ndarray) -> np.ndarray:
    """Pixels of each (object, part) pair of two (H, W) label maps: int64 (k, 3), sorted by object, then part."""
    pairs = object_map.astype(np.uint32) << 16 | part_map
    values, pixels = np.unique(pairs, return_counts=True)
    return np.stack([values >> 16, values & 0xFFFF, pixels], axis=1).astype(np.int64)


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, progress: bool, what: str
) -> list[Result]:
    """``[function(item) for item in items]`` on a few threads (PIL decodes outside the interpreter lock)."""
    bar = {"tqdm_class": tqdm, "desc": what, "disable": not progress, "unit": "image"}
    return thread_map(function, list(items), max_workers=min(8, os.cpu_count() or 1), **bar)

"""One photograph of the official full release of ADE20K (ADE20K_2021_17_01), in the classes of ADE20K-Part-234.

For each ``NAME.jpg`` the release has ``NAME_seg.png``, the visible objects; ``NAME_parts_1.png``, ``NAME_parts_2.png``
and so on, parts and parts of parts, as deep as there are any; ``NAME.json``, a list of all annotated objects and parts;
and the folder ``NAME`` with one mask per entry of that list. In the colour PNGs the class is ``R // 10 · 256 + G`` (an
index, from 1, into the object list of the release; 0 is nothing) and B tells instances of the picture apart. In a
mask, 255 is visible and 128 is hidden behind something else.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ovparts_lib.data.files import DatasetError, read_file
from ovparts_lib.data.labels import check_same_size, opened, read_image, read_labels
from ovparts_lib.vocabularies import PartVocabulary

AGAIN = "Unpack ADE20K_2021_17_01 again; its PNG files must not be converted or re-saved."
CODES = 26 * 256  # R // 10 is 0..25
_DEEPEST = 9  # level to which files are looked for: deeper than parts of parts go


@dataclass(frozen=True)
class ReleaseClasses:
    """Which classes of the release make up the objects and parts of a vocabulary.

    Attributes:
        vocabulary: ADE20K-Part-234.
        object_table: uint8 (6656,), object of each class of the release; ``len(vocabulary.objects)`` for none.
        part_table: uint16 (objects + 1, 6656), part of each class of the release on each object, or the ignore label.
    """

    vocabulary: PartVocabulary
    object_table: np.ndarray
    part_table: np.ndarray

    @classmethod
    def load(cls, vocabulary: PartVocabulary) -> Self:
        """The mapping that OV-PARTS published, by the names of the vocabulary."""
        path = files(__package__).joinpath("ade20k_part_234_source.json")
        entries = json.loads(path.read_text(encoding="utf-8"))["objects"]
        none = len(vocabulary.objects)
        objects = np.full(CODES, none, np.uint8)
        parts = np.full((none + 1, CODES), vocabulary.ignore_label, np.uint16)
        for name, entry in entries.items():
            object_id = vocabulary.object_id(name)
            objects[entry["object_ids"]] = object_id
            for part, codes in entry["parts"].items():
                parts[object_id, codes] = vocabulary.part_id(f"{name}'s {part}")
        return cls(vocabulary, objects, parts)


class ReleaseObject(NamedTuple):
    """One object or part that is annotated in a photograph.

    Attributes:
        code: its class in the release.
        level: 0 for a whole object, 1 for a part of one, and so on.
        mask: file of its mask, relative to the folder of the photograph.
    """

    code: int
    level: int
    mask: str


class ReleasePhoto:
    """A photograph with its annotations; nothing is read before it is asked for.

    Args:
        picture: ``NAME.jpg`` in a folder of the release.
        classes: what to make of its classes.
    """

    def __init__(self, picture: Path, classes: ReleaseClasses) -> None:
        self.picture, self.classes = picture, classes
        self.seg_path = picture.with_name(f"{picture.stem}_seg.png")
        self.annotation_path = picture.with_suffix(".json")

    @property
    def part_paths(self) -> list[Path]:
        """``NAME_parts_1.png`` and so on, as many levels as there are. Raises DatasetError if one is missing below."""
        name = self.picture.stem
        levels = [self.picture.with_name(f"{name}_parts_{level}.png") for level in range(1, _DEEPEST + 1)]
        there = [path.is_file() for path in levels]
        count = sum(there)
        if not all(there[:count]):
            what = f"no such file, though {levels[max(np.flatnonzero(there))].name} is there"
            advice = "Unpack ADE20K_2021_17_01 again: parts of parts come with the parts they belong to."
            raise DatasetError(levels[there.index(False)], what, advice)
        return levels[:count]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the annotations. Raises DatasetError if they or the picture cannot be read, or differ."""
        height, width = read_image(self.picture, self._seg[0].shape).shape[-2:]
        check_same_size(self.picture, (height, width), self.seg_path, self._seg[0].shape)
        return height, width

    @cached_property
    def _seg(self) -> tuple[np.ndarray, np.ndarray]:
        return read_codes(self.seg_path)

    @cached_property
    def _annotated(self) -> list[ReleaseObject]:
        return read_annotation(self.annotation_path)

    def deepest_level(self) -> int:
        """Level of the deepest part that is annotated; 0 without parts."""
        return max((item.level for item in self._annotated), default=0)

    def part_map(self) -> np.ndarray:
        """Part labels, uint16 (H, W), ``vocabulary.ignore_label`` where there is none.

        A part belongs to the object that is visible at its pixel. Where parts have parts, the deepest one that the
        vocabulary has for the object counts: the window in a car's door is the car's window, while the door's handle,
        which the vocabulary lacks for cars, stays door.

        Raises:
            DatasetError: a file is missing (also a level of parts below one that is there), damaged, no colour PNG, or
                of another size.
        """
        objects = self.classes.object_table[self._seg[0]]
        ignore = self.classes.vocabulary.ignore_label
        parts = np.full(objects.shape, ignore, np.uint16)
        for path in self.part_paths:
            codes = read_codes(path)[0]
            check_same_size(self.seg_path, objects.shape, path, codes.shape)
            labels = self.classes.part_table[objects, codes]
            np.copyto(parts, labels, where=labels != ignore)
        return parts

    def objects(self) -> list[tuple[int, ReleaseObject]]:
        """The whole objects of the vocabulary with their object ids, in the order of their annotation.

        Raises:
            DatasetError: the annotation is missing or not as the release defines it.
        """
        whole = [(int(self.classes.object_table[item.code]), item) for item in self._annotated if item.level == 0]
        return [(object_id, item) for object_id, item in whole if object_id < len(self.classes.vocabulary.objects)]

    def visible(self, item: ReleaseObject) -> np.ndarray:
        """Where an object can be seen, bool (H, W): its own pixels in ``NAME_seg.png``, inside its mask.

        The visible part of the mask tells which of the instances in ``NAME_seg.png`` it is. The mask alone would not
        do: it calls an object hidden where one of its own parts sticks out of it.

        Raises:
            DatasetError: the mask is missing, damaged, or of another size.
        """
        codes, instances = self._seg
        mask_path = self.picture.parent / item.mask
        mask = read_labels(mask_path, np.uint8)
        check_same_size(self.seg_path, codes.shape, mask_path, mask.shape)
        own = (mask > 0) & (codes == item.code)
        shown = instances[own & (mask == 255)]
        return own & (instances == np.bincount(shown).argmax()) if shown.size else np.zeros(codes.shape, bool)

    def sources(self) -> Iterator[Path]:
        """All files that are there for this photograph, for telling whether any has changed."""
        masks = sorted(self.picture.with_suffix("").glob("*"))
        return filter(Path.is_file, (self.picture, self.seg_path, self.annotation_path, *self.part_paths, *masks))


def read_codes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Classes of the release, int64 (H, W), and instance values, uint8 (H, W), of a ``_seg`` or ``_parts`` PNG.

    Raises:
        DatasetError: the file is missing, damaged, or not an 8-bit colour PNG.
    """
    with opened(path) as picture:
        if picture.mode != "RGB":
            what = f"has mode {picture.mode}; the release codes classes in the channels R and G of an RGB picture"
            raise DatasetError(path, what, AGAIN)
        pixels = np.array(picture)
    return pixels[..., 0].astype(np.int64) // 10 * 256 + pixels[..., 1], pixels[..., 2]


def read_annotation(path: Path) -> list[ReleaseObject]:
    """The annotated objects and parts of a photograph.

    Some files of the release are UTF-8 and some Latin-1. Exported from MATLAB, they hold a single object without its
    list. Entries marked as deleted are left out; most deleted ones just leave a gap in the numbering.

    Raises:
        DatasetError: the file is missing, no JSON, or not as the release defines it.
    """
    content = read_file(path, "Each picture of ADE20K_2021_17_01 has one (earlier releases have _atr.txt files).")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        entries = json.loads(text, strict=False)["annotation"]["object"]
        entries = [entries] if isinstance(entries, dict) else entries
        return [_entry(path, entry) for entry in entries if not int(entry.get("deleted") or 0)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"is not an annotation as of ADE20K_2021_17_01 ({type(error).__name__}: {error})"
        raise DatasetError(path, what, AGAIN) from error


def _entry(path: Path, entry: dict[str, Any]) -> ReleaseObject:
    number, code, level = int(entry["id"]), int(entry["name_ndx"]), int(entry["parts"]["part_level"])
    if not 0 <= code < CODES or level < 0:
        raise ValueError(f"object {number} has name_ndx {code} and part_level {level}")
    mask = entry.get("instance_mask") or f"{path.stem}/instance_{number:03d}_{path.stem}.png"
    if Path(mask).is_absolute() or ".." in Path(mask).parts:
        raise ValueError(f"object {number} has the mask {mask!r}")
    return ReleaseObject(code, level, mask)

"""What every layout of the miniature is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovparts_lib.data.coco_writing import write_coco
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

"""Drawing scenes for datasets other than Pascal-Part-116, under the names there (``counterparts.yaml``)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from ovparts_lib.miniature.backgrounds import finish, paint_background
from ovparts_lib.miniature.canvas import NOTHING, Canvas
from ovparts_lib.miniature.captions import scene_caption
from ovparts_lib.miniature.figure import Piece, Pose, pose_figure
from ovparts_lib.miniature.scene import FIGURES, LEAST_PIXELS, SIZES, paint_figures
from ovparts_lib.vocabularies import PartVocabulary


@dataclass(frozen=True)
class Counterpart:
    """An object of another dataset that a figure is drawn as.

    Attributes:
        name: of the object there.
        parts: ``{word of a piece: generic part there}``.
    """

    name: str
    parts: Mapping[str, str]


Table = Mapping[str, Counterpart]


def _read_tables() -> dict[str, Table]:
    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

    def counterpart(name: str, parts: dict[str, list[str]]) -> Counterpart:
        return Counterpart(name, {word: part for part, words in parts.items() for word in words})

    return {
        dataset: {figure: counterpart(**entry) for figure, entry in table.items()} for dataset, table in content.items()
    }


TABLES: Mapping[str, Table] = _read_tables()


@cache
def drawn_words(dataset: str) -> PartVocabulary:
    """The objects and parts that are drawn for a dataset, under its names; what label maps of a drawing hold."""
    table = TABLES[dataset].values()
    parts = dict.fromkeys(f"{entry.name}'s {part}" for entry in table for part in entry.parts.values())
    return PartVocabulary(f"drawn_{dataset}", tuple(parts), tuple(entry.name for entry in table), ignore_label=NOTHING)


def rename(pose: Pose, table: Table) -> Pose:
    """A posed figure under the names of another dataset; pieces keep their shapes, colours and order."""
    entry = table[pose.name]
    pieces = tuple(replace(piece, label=entry.parts.get(_word(piece))) for piece in pose.pieces)
    return replace(pose, name=entry.name, pieces=pieces)


def _word(piece: Piece) -> str:
    return piece.key.split()[0] if piece.label is None else piece.label


@dataclass(frozen=True)
class Drawing:
    """A picture with its labels.

    Attributes:
        image: uint8 (h, w, 3).
        part_map: uint8 (h, w), ids of :func:`~ovparts_lib.miniature.layouts.counterparts.drawn_words`, 255 = none.
        instances: for each object that can be seen, from far to near: its name and its visible pixels, bool (h, w).
        caption: one sentence about it.
    """

    image: np.ndarray
    part_map: np.ndarray
    instances: tuple[tuple[str, np.ndarray], ...]
    caption: str


def draw(rng: np.random.Generator, dataset: str, figures: list[str], *, most: int = 4) -> Drawing:
    """Draw a scene of one to ``most`` objects until a part of one of them can be seen.

    Args:
        rng: the picture's random stream.
        dataset: one of ``TABLES``.
        figures: what to draw from, each equally often.
        most: largest number of objects.
    """
    odds = np.array([0.45, 0.33, 0.15, 0.07])[:most]
    words, table = drawn_words(dataset), TABLES[dataset]
    while True:
        width, height = SIZES[rng.integers(len(SIZES))]
        count = 1 + int(rng.choice(len(odds), p=odds / odds.sum()))
        canvas = Canvas(width, height)
        place = paint_background(canvas, rng)
        poses = [pose_figure(FIGURES[figures[i]], rng) for i in rng.integers(len(figures), size=count)]
        painted = paint_figures(canvas, [rename(pose, table) for pose in poses], words, rng)
        if (painted.part_map != NOTHING).any():
            break
    masks = ((pose.name, painted.instance_map == number) for number, pose in enumerate(painted.poses))
    instances = tuple((name, mask) for name, mask in masks if mask.any())
    image = finish(canvas.image(), rng)
    return Drawing(image, painted.part_map, instances, scene_caption(painted.things(LEAST_PIXELS), place, rng))

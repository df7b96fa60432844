"""Drawing a scene under the names of another dataset, with its object instances kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ovparts_lib.miniature.backgrounds import finish, paint_background
from ovparts_lib.miniature.canvas import NOTHING, Canvas
from ovparts_lib.miniature.captions import scene_caption
from ovparts_lib.miniature.figure import pose_figure
from ovparts_lib.miniature.layouts.counterparts import TABLES, drawn_words, rename
from ovparts_lib.miniature.scene import FIGURES, LEAST_PIXELS, SIZES, paint_figures


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

"""Backgrounds whose regions are classes: sky, grass, road, sea, wall, floor, and what stands there."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ovparts_lib.miniature.canvas import NOTHING, SUPERSAMPLING, Canvas
from ovparts_lib.miniature.figure import Colour, draw_colour, scale_colour
from ovparts_lib.miniature.shapes import box, ellipse, wool

# Colours of each kind; for a place, as captions call it, what is above and below the horizon, and what may stand there.
_TABLES = json.loads(Path(__file__).with_name("stuff.json").read_text(encoding="utf-8"))
_PLACES = _TABLES["places"]
STUFF = tuple(_TABLES["colours"])


def paint_stuff(canvas: Canvas, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Fill the canvas with a random place.

    Returns:
        The place's name, and indices into ``STUFF``, uint8 (height, width).
    """
    place = list(_PLACES)[rng.integers(len(_PLACES))]
    above, below, standing = _PLACES[place]
    labels = Image.new("L", canvas.picture.size, NOTHING)
    pen = ImageDraw.Draw(labels)
    width, height = canvas.width, canvas.height
    horizon = height * rng.uniform(0.35, 0.65)

    def paint(name: str, points: np.ndarray, colour: Colour) -> None:
        canvas.polygon(points, colour)
        pen.polygon((points * SUPERSAMPLING).ravel().tolist(), fill=STUFF.index(name))

    def colour_of(name: str) -> Colour:
        families = _TABLES["colours"][name]
        return draw_colour(rng, families[rng.integers(len(families))])

    paint(above, box(0) * (2 * width, 2 * height) + (width / 2, height / 2), colour_of(above))
    for _ in range(rng.integers(0, 4) if standing else 0):
        name, x = standing[rng.integers(len(standing))], rng.uniform(0, width)
        tall = rng.uniform(0.2, 0.6) * horizon
        shape, wide = {
            "tree": (wool(9), 0.9 * tall),
            "building": (box(0), rng.uniform(0.6, 1.2) * tall),
            "mountain": (ellipse(), rng.uniform(2, 4) * tall),
        }[name]
        paint(name, shape * (wide, 1.6 * tall) + (x, horizon - 0.3 * tall), colour_of(name))
    ground = colour_of(below)
    paint(below, box(0) * (2 * width, height) + (width / 2, horizon + height / 2), ground)
    for _ in range(rng.integers(0, 20)):
        at = (rng.uniform(0, width), rng.uniform(horizon + 3, height + 3))
        canvas.polygon(
            ellipse(10) * (rng.uniform(2, 14), rng.uniform(1, 3)) + at, scale_colour(ground, rng.uniform(0.8, 1.2))
        )
    middle = SUPERSAMPLING // 2
    return place, np.asarray(labels)[middle::SUPERSAMPLING, middle::SUPERSAMPLING].copy()

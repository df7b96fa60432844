"""Cluttered backgrounds: landscapes, streets, rooms and abstract ones. Nothing here is ever labelled."""

import numpy as np
from PIL import Image

from ovparts_lib.miniature.canvas import Canvas, rgb
from ovparts_lib.miniature.figure import Colour, draw_colour, scale_colour
from ovparts_lib.miniature.shapes import blob, box, ellipse, poly, wool

PLACES = ("meadow", "street", "room", "water", "abstract", "wall")
_ROOF = poly(((-0.6, 0.5), (0, -0.5), (0.6, 0.5)))
_CLOUD = blob(((-0.5, 0.3), (-0.4, -0.1), (-0.15, -0.2), (0, -0.5), (0.25, -0.25), (0.45, -0.1), (0.5, 0.3), (0, 0.4)))
_GROUND = {
    "meadow": ("green", "green", "golden", "white"),
    "street": ("grey", "dark", "cream"),
    "water": ("blue", "glass"),
}


def paint_background(canvas: Canvas, rng: np.random.Generator) -> str:
    """Fill the canvas with a random place and its clutter; returns the place's name (one of ``PLACES``)."""
    place = PLACES[rng.integers(len(PLACES))]
    horizon = canvas.height * rng.uniform(0.35, 0.65)
    if place in ("meadow", "street", "water"):
        _outdoors(canvas, rng, place, horizon)
    elif place == "room":
        _room(canvas, rng, horizon + 0.15 * canvas.height)
    else:
        _gradient(canvas, _soft(rng), _soft(rng), 0, canvas.height, turn=bool(rng.random() < 0.5))
        if place == "abstract":
            for _ in range(rng.integers(4, 12)):
                _shape(canvas, rng, (rng.random(), rng.random()), rng.uniform(0.1, 0.45), _soft(rng))
    return place


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side, a colour cast, exposure and sensor noise; uint8 (h, w, 3) in and out."""
    height, width = image.shape[:2]
    slope_x, slope_y = rng.uniform(-0.18, 0.18, 2)
    light = 1 + slope_x * np.linspace(-1, 1, width)[None, :] + slope_y * np.linspace(-1, 1, height)[:, None]
    cast = rng.uniform(0.9, 1.08) * rng.uniform(0.94, 1.06, 3)
    lit = rng.standard_normal((height, width, 3), dtype=np.float32)
    lit *= rng.uniform(1.0, 7.0)
    lit += image * (light.astype(np.float32)[:, :, None] * cast.astype(np.float32))
    lit += 0.5
    return lit.clip(0, 255, out=lit).astype(np.uint8)


def _soft(rng: np.random.Generator) -> Colour:
    """A muted colour, so that backgrounds rarely shout louder than objects."""
    base, grey = rng.random(3), rng.uniform(0.25, 0.85)
    return tuple(grey + (base - 0.5) * 0.4)


def _gradient(canvas: Canvas, top: Colour, bottom: Colour, start: float, stop: float, *, turn: bool = False) -> None:
    width, full = canvas.picture.size
    scale = full / canvas.height
    y0, y1 = max(int(start * scale), 0), min(int(stop * scale), full)
    if y1 <= y0:
        return
    steps = np.linspace(rgb(top), rgb(bottom), width if turn else y1 - y0).round().astype(np.uint8)
    ramp = Image.fromarray(steps[None] if turn else steps[:, None])
    canvas.picture.paste(ramp.resize((width, y1 - y0), Image.Resampling.NEAREST), (0, y0))


def _place(shape: np.ndarray, x: float, y: float, width: float, height: float) -> np.ndarray:
    return shape * (width, height) + (x, y)


def _shape(canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], size: float, colour: Colour) -> None:
    """One abstract distractor: box, ellipse, triangle or blob at a relative place."""
    shape = (box(0.1), ellipse(), _ROOF, _CLOUD, box(0.4))[rng.integers(5)]
    side = size * max(canvas.width, canvas.height)
    turn = rng.uniform(0, np.pi)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = (shape * (side, side * rng.uniform(0.2, 1))) @ spin + (at[0] * canvas.width, at[1] * canvas.height)
    canvas.polygon(points, colour, outline=scale_colour(colour, 0.75) if rng.random() < 0.5 else None)


def _outdoors(canvas: Canvas, rng: np.random.Generator, place: str, horizon: float) -> None:
    width, height = canvas.width, canvas.height
    sky = draw_colour(rng, ("glass", "white", "blue", "cream", "grey")[rng.integers(5)])
    _gradient(canvas, sky, scale_colour(sky, rng.uniform(1.0, 1.3)), 0, horizon + 1)
    family = _GROUND[place][rng.integers(len(_GROUND[place]))]
    earth = draw_colour(rng, family)
    earth = tuple(0.75 * c + 0.12 for c in earth)
    _gradient(canvas, scale_colour(earth, 1.15), scale_colour(earth, 0.75), horizon, height)
    for _ in range(rng.integers(0, 3)):
        x, y, size = rng.uniform(0, width), rng.uniform(0, horizon * 0.7), rng.uniform(0.15, 0.4) * width
        canvas.polygon(_place(_CLOUD, x, y, size, size * 0.4), (0.95, 0.96, 0.98))
    if place != "street" and rng.random() < 0.6:
        long, tall = rng.uniform(0.5, 1.4) * width, rng.uniform(0.15, 0.5) * height
        hill = _place(ellipse(), rng.uniform(0, width), horizon, long, tall)
        canvas.polygon(np.minimum(hill, (np.inf, horizon)), scale_colour(earth, rng.uniform(0.7, 1.1)))
    for _ in range(rng.integers(0, 5)):
        x, size = rng.uniform(0, width), rng.uniform(0.15, 0.5) * height
        if place == "street" or rng.random() < 0.25:
            _house(canvas, rng, x, horizon + 2, size)
        elif place == "meadow":
            _tree(canvas, rng, x, horizon + rng.uniform(0, 0.08) * height, size)
    if place == "street":
        for x in np.arange(rng.uniform(0, 30), width, 34):
            y = height * 0.9
            canvas.polygon(np.array([(x, y), (x + 16, y), (x + 14, y + 3), (x - 2, y + 3)]), (0.9, 0.9, 0.85))
    else:
        for _ in range(rng.integers(0, 25)):
            x, y = rng.uniform(0, width), rng.uniform(horizon, height)
            tuft = _place(ellipse(10), x, y, rng.uniform(2, 14), rng.uniform(1, 3))
            canvas.polygon(tuft, scale_colour(earth, rng.uniform(0.7, 1.3)))


def _tree(canvas: Canvas, rng: np.random.Generator, x: float, base: float, size: float) -> None:
    trunk = draw_colour(rng, "brown")
    canvas.polygon(_place(box(0.1), x, base - size * 0.25, size * 0.13, size * 0.5), trunk)
    crown = wool(9) if rng.random() < 0.6 else _ROOF
    green = scale_colour(draw_colour(rng, "green"), rng.uniform(0.6, 1.0))
    leaves = _place(crown, x, base - size * 0.75, size * 0.7, size * 0.8)
    canvas.polygon(leaves, green, outline=scale_colour(green, 0.8))


def _house(canvas: Canvas, rng: np.random.Generator, x: float, base: float, size: float) -> None:
    wall = _soft(rng)
    width = size * rng.uniform(0.6, 1.2)
    canvas.polygon(_place(box(0), x, base - size / 2, width, size), wall, outline=scale_colour(wall, 0.8))
    if rng.random() < 0.5:
        canvas.polygon(_place(_ROOF, x, base - size * 1.15, width, size * 0.3), _soft(rng))
    for dx in (-0.25, 0.25):
        for dy in (0.3, 0.7):
            window = _place(box(0), x + dx * width, base - dy * size, width * 0.2, size * 0.18)
            canvas.polygon(window, scale_colour(wall, 0.6))


def _room(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    width, height = canvas.width, canvas.height
    wall, boards = _soft(rng), draw_colour(rng, ("brown", "golden", "grey", "cream")[rng.integers(4)])
    _gradient(canvas, wall, scale_colour(wall, 0.9), 0, floor)
    _gradient(canvas, boards, scale_colour(boards, 0.8), floor, height)
    if rng.random() < 0.4:
        for x in np.arange(rng.uniform(0, 12), width, rng.uniform(9, 20)):
            canvas.polygon(_place(box(0), x, floor / 2, 2, floor), scale_colour(wall, 0.93))
    canvas.polygon(_place(box(0), width / 2, floor, width, 3), scale_colour(wall, 1.2))
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(0, width), rng.uniform(0.15, 0.8) * floor
        side = rng.uniform(0.12, 0.32) * height
        frame = _place(box(0), x, y, side * rng.uniform(0.7, 1.4), side)
        canvas.polygon(frame, draw_colour(rng, "brown"))
        canvas.polygon((frame - (x, y)) * 0.82 + (x, y), _soft(rng))
    for _ in range(rng.integers(0, 3)):
        x, side = rng.uniform(0, width), rng.uniform(0.2, 0.5) * height
        cupboard = _place(box(0.05), x, floor - side * 0.3, side * rng.uniform(0.5, 1.2), side)
        colour = scale_colour(_soft(rng), 0.8)
        canvas.polygon(cupboard, colour, outline=scale_colour(colour, 0.7))
        drawer = (cupboard - (x, floor - side * 0.3)) * (0.8, 0.35) + (x, floor - side * 0.5)
        canvas.polygon(drawer, scale_colour(colour, 1.15))

"""Declarative descriptions of the miniature's objects and the posing that turns one into polygons."""

import colorsys
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Range = tuple[float, float]
Colour = tuple[float, float, float]

# Hue, saturation and value ranges of the named colours; the name is also the word in captions.
COLOUR_FAMILIES: dict[str, tuple[Range, Range, Range]] = json.loads(
    Path(__file__).with_name("figures").joinpath("colours.json").read_text(encoding="utf-8")
)


TEXTURES = ("plain", "stripes", "spots", "patches")


@dataclass(frozen=True)
class Tint:
    """A colour slot derived from another: its value (brightness) multiplied by a random factor."""

    slot: str
    factor: Range


Slot = tuple[str, ...] | Tint


@dataclass(frozen=True)
class Part:
    """One drawn shape of a figure and how it hangs on the others.

    Attributes:
        key: unique name within the view; children refer to it.
        label: generic part of the vocabulary (``"head"``); None draws object pixels that belong to no part.
        shape: outline in the unit frame of :mod:`miniature.shapes`.
        size: extent along the shape's own x and y, in units of the figure.
        at: joint, in the unit frame of the parent (of the figure for a root).
        parent: key of the part it hangs on; None for a root.
        angle: range of rotation in degrees, clockwise, relative to the parent (to the figure if ``upright``).
        paint: colour slot of the figure's palette.
        order: painter's order; higher is nearer.
        vary: relative range of random size.
        shade: brightness factor (far legs are darker).
        chance: probability that it is drawn; its children vanish with it.
        upright: the angle is measured in the figure's frame, whatever the parent does.
        textured: may take the figure's texture.
        alpha: opacity (wheels between their spokes, glass).
        outline: draw a darker contour.
    """

    key: str
    label: str | None
    shape: np.ndarray = field(repr=False)
    size: tuple[float, float]
    at: tuple[float, float] = (0.0, 0.0)
    parent: str | None = None
    angle: Range = (0.0, 0.0)
    paint: str = "coat"
    order: int = 0
    vary: float = 0.06
    shade: float = 1.0
    chance: float = 1.0
    upright: bool = False
    textured: bool = False
    alpha: float = 1.0
    outline: bool = True


@dataclass(frozen=True)
class View:
    """One way of seeing an object: its parts, how large it tends to be, and how often it is chosen.

    Attributes:
        parts: parents before children.
        scale: size relative to other objects (longest side; 1 = a car).
        weight: relative frequency among the object's views.
        stretch: range of random widening (x multiplied, y divided).
        tilt: largest random rotation of the whole figure in degrees.
        grounded: casts a shadow below.
    """

    parts: tuple[Part, ...]
    scale: float = 1.0
    weight: float = 1.0
    stretch: Range = (0.92, 1.08)
    tilt: float = 7.0
    grounded: bool = True

    def __post_init__(self) -> None:
        placed: set[str | None] = {None}
        for part in self.parts:
            if part.parent not in placed or part.key in placed:
                raise ValueError(f"part {part.key!r} is repeated or comes before its parent {part.parent!r}")
            placed.add(part.key)


@dataclass(frozen=True)
class Figure:
    """An object of the vocabulary: its views, its colour slots (the first names it in captions) and textures."""

    name: str
    views: tuple[View, ...]
    colours: Mapping[str, Slot]
    textures: tuple[str, ...] = ("plain",)


@dataclass(frozen=True)
class Piece:
    """A posed shape: polygon (n, 2) in the figure's units, with everything the painter needs."""

    points: np.ndarray
    key: str
    label: str | None
    colour: Colour
    order: int
    texture: str
    accent: Colour
    alpha: float
    outline: bool
    continues: bool


@dataclass(frozen=True)
class Pose:
    """A figure in one random pose: pieces in painting order and the word for its main colour."""

    name: str
    view: View
    pieces: tuple[Piece, ...]
    colour_word: str


def draw_colour(rng: np.random.Generator, family: str) -> Colour:
    """A random RGB colour (0..1) of a named family."""
    hue, saturation, value = (rng.uniform(*limits) for limits in COLOUR_FAMILIES[family])
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def scale_colour(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor < 1) or lighter; a light one keeps a tenth of the way to white in hand."""
    if factor <= 1:
        return tuple(c * factor for c in colour)
    return tuple(min(1.0, c * factor + 0.06 * (factor - 1)) for c in colour)


def pose_figure(figure: Figure, rng: np.random.Generator) -> Pose:
    """Draw a view, a palette, a texture and every joint angle of a figure.

    Points are in figure units with y down; the figure looks to the right (the scene flips half of them).
    """
    weights = np.array([view.weight for view in figure.views])
    view = figure.views[rng.choice(len(weights), p=weights / weights.sum())]
    palette, words = _draw_palette(figure.colours, rng)
    texture = figure.textures[rng.integers(len(figure.textures))]
    accent_family = ("white", "black", "brown", "grey", "cream")[rng.integers(5)]
    accent = draw_colour(rng, accent_family)
    stretch = rng.uniform(*view.stretch)
    placed: dict[str, tuple[np.ndarray, np.ndarray, float, str | None]] = {}
    pieces = []
    for part in view.parts:
        if part.parent is not None and part.parent not in placed:
            continue
        if part.chance < 1 and rng.random() >= part.chance:
            continue
        origin, turn, owner_label = np.array(part.at, float), 0.0, None
        if part.parent is not None:
            matrix, start, turn, owner_label = placed[part.parent]
            origin = start + matrix @ origin
        turn = (0.0 if part.upright else turn) + rng.uniform(*part.angle)
        size = np.array(part.size) * (1 + part.vary * rng.uniform(-1, 1, 2))
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        matrix = np.array([[c, -s], [s, c]]) * size
        placed[part.key] = (matrix, origin, turn, part.label)
        points = (part.shape @ matrix.T + origin) * (stretch, 1 / stretch)
        shade = part.shade * rng.uniform(0.94, 1.05)
        pieces.append(
            Piece(points, part.key, part.label, scale_colour(palette[part.paint], shade), part.order,
                  texture if part.textured else "plain", accent, part.alpha, part.outline,
                  part.label is not None and owner_label == part.label)
        )  # fmt: skip
    pieces.sort(key=lambda piece: piece.order)
    return Pose(figure.name, view, tuple(pieces), words[next(iter(figure.colours))])


def _draw_palette(slots: Mapping[str, Slot], rng: np.random.Generator) -> tuple[dict[str, Colour], dict[str, str]]:
    palette: dict[str, Colour] = {}
    words: dict[str, str] = {}
    for slot, choice in slots.items():
        if isinstance(choice, Tint):
            palette[slot] = scale_colour(palette[choice.slot], rng.uniform(*choice.factor))
            words[slot] = words[choice.slot]
        else:
            words[slot] = choice[rng.integers(len(choice))]
            palette[slot] = draw_colour(rng, words[slot])
    return palette, words

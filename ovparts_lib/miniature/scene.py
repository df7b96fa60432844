"""Composing posed figures and a background into one annotated picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovparts_lib.miniature.backgrounds import finish, paint_background
from ovparts_lib.miniature.canvas import NOTHING, Canvas
from ovparts_lib.miniature.figure import Figure, Pose, pose_figure, scale_colour
from ovparts_lib.miniature.figure_files import load_figures
from ovparts_lib.miniature.shapes import ellipse
from ovparts_lib.vocabularies import PartVocabulary

FIGURES = load_figures()
SIZES = ((176, 132), (192, 128), (160, 128), (176, 144), (132, 176), (160, 160))
SPLITS = ("train", "val", "captions", "regions")
LEAST_PIXELS = 12  # of an object that a caption tells of
VISIBLE_PIXELS = 4  # and of a part


@dataclass(frozen=True)
class Thing:
    """One object of a scene, as a caption may tell of it.

    Attributes:
        name: object of the vocabulary.
        colour: word for its main colour.
        parts: generic names of the parts one can see, and how many of each were drawn.
        pixels: number of its visible pixels.
    """

    name: str
    colour: str
    parts: dict[str, int]
    pixels: int


@dataclass(frozen=True)
class Scene:
    """A picture and its labels: ``image`` uint8 (h, w, 3), ``part_map`` and ``object_map`` uint8 (h, w), 255 = none.

    ``instance_map`` numbers the figures from far to near, 255 = none; ``things`` are those of which enough can be seen.
    """

    image: np.ndarray
    part_map: np.ndarray
    object_map: np.ndarray
    instance_map: np.ndarray
    things: tuple[Thing, ...]
    place: str


@dataclass(frozen=True)
class Painted:
    """Figures on a canvas, from far to near, and their label maps, uint8 (h, w), 255 = none."""

    poses: tuple[Pose, ...]
    part_map: np.ndarray
    object_map: np.ndarray
    instance_map: np.ndarray
    vocabulary: PartVocabulary

    def things(self, least: int) -> tuple[Thing, ...]:
        """The figures of which at least so many pixels can be seen."""
        things = (
            visible_thing(pose, self.part_map[self.instance_map == number], self.vocabulary)
            for number, pose in enumerate(self.poses)
        )
        return tuple(thing for thing in things if thing.pixels >= least)


@dataclass
class Placed:
    """A pose with the affine map that takes it to pixels: ``points @ matrix + offset``."""

    pose: Pose
    matrix: np.ndarray
    offset: np.ndarray

    def points(self) -> list[np.ndarray]:
        """Polygons of all pieces in pixels."""
        return [piece.points @ self.matrix + self.offset for piece in self.pose.pieces]


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one picture; it depends on nothing but its three arguments."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(SPLITS.index(split), index))
    return np.random.Generator(np.random.PCG64(sequence))


def render_scene(rng: np.random.Generator, vocabulary: PartVocabulary) -> Scene:
    """Draw a random scene with one to four objects of Pascal-Part-116's vocabulary."""
    width, height = SIZES[rng.integers(len(SIZES))]
    count = int(rng.choice([1, 2, 3, 4], p=[0.6, 0.3, 0.08, 0.02]))
    names = draw_names(rng, count)
    canvas = Canvas(width, height)
    place = paint_background(canvas, rng)
    painted = paint_figures(canvas, [pose_figure(FIGURES[name], rng) for name in names], vocabulary, rng)
    image = finish(canvas.image(), rng)
    return Scene(image, painted.part_map, painted.object_map, painted.instance_map, painted.things(LEAST_PIXELS), place)


def draw_names(rng: np.random.Generator, count: int) -> list[str]:
    """Objects of a scene: mostly those with parts, the four without now and then; repeats are allowed."""
    names = list(FIGURES)
    weights = np.array([1.0 if _has_parts(FIGURES[name]) else 0.35 for name in names])
    return [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]


def _has_parts(figure: Figure) -> bool:
    return any(part.label is not None for view in figure.views for part in view.parts)


def arrange(poses: Sequence[Pose], width: int, height: int, rng: np.random.Generator) -> list[Placed]:
    """Place figures beside each other with random size, flip and tilt, sorted from far to near.

    A lone object is sometimes so large that the border cuts it; with company, objects stand in loose columns and may
    hide one another.
    """
    count = len(poses)
    largest = (0.8, 1.1)
    columns = rng.permutation(count)
    placed = []
    for pose, column in zip(poses, columns, strict=True):
        matrix = flip_and_tilt(pose, rng)
        points = np.concatenate([piece.points for piece in pose.pieces]) @ matrix
        low, high = points.min(0), points.max(0)
        extent = high - low
        room = np.array([width * (1.0, 0.72, 0.58, 0.5)[count - 1], height * (1.0, 1.0, 0.9, 0.8)[count - 1]])
        scale = rng.uniform(*largest) * (room / extent).min() * pose.view.scale**0.4
        zoomed = count == 1 and rng.random() < 0.25
        if zoomed:
            scale *= rng.uniform(1.15, 1.5)
            piece = pose.pieces[rng.integers(len(pose.pieces))]
            focus = (piece.points @ matrix).mean(0)
            at = np.array([width, height]) * rng.uniform(0.35, 0.65, 2) - focus * scale
        else:
            half = extent * scale / 2
            spread = (column + 0.5 + rng.uniform(-0.35, 0.35)) / count * width
            x = _within(spread, half[0], width, rng)
            rise = rng.uniform(0.62, 1.0) if pose.view.grounded else rng.uniform(0.3, 0.95)
            y = _within(rise * height - half[1], half[1], height, rng)
            at = np.array([x, y]) - (low + high) / 2 * scale
        placed.append(Placed(pose, matrix * scale, at))
    return sorted(placed, key=lambda item: max(points[:, 1].max() for points in item.points()))


def paint_figures(
    canvas: Canvas, poses: Sequence[Pose], vocabulary: PartVocabulary, rng: np.random.Generator
) -> Painted:
    """Place figures on a canvas and paint them, with labels as the vocabulary numbers their objects and parts."""
    placed = arrange(poses, canvas.width, canvas.height, rng)
    for number, item in enumerate(placed):
        paint_figure(canvas, item, vocabulary, number, rng)
    return Painted(tuple(item.pose for item in placed), *canvas.label_maps(), vocabulary)


def paint_figure(
    canvas: Canvas, item: Placed, vocabulary: PartVocabulary, number: int, rng: np.random.Generator
) -> None:
    """Paint one placed figure with its shadow; pieces get darker towards its foot."""
    polygons = item.points()
    everything = np.concatenate(polygons)
    low, high = everything.min(0), everything.max(0)
    if item.pose.view.grounded and rng.random() < 0.7:
        middle, extent = (low + high) / 2, high - low
        shadow = ellipse() * (extent[0] * 1.0, extent[1] * 0.1) + (middle[0], high[1] - extent[1] * 0.01)
        canvas.polygon(shadow, (0.1, 0.1, 0.12), alpha=0.35)
    light, object_id = rng.uniform(0.0, 0.22), vocabulary.object_id(item.pose.name)
    for piece, points in zip(item.pose.pieces, polygons, strict=True):
        part_id = NOTHING if piece.label is None else vocabulary.part_id(f"{item.pose.name}'s {piece.label}")
        depth = ((points[:, 1].mean() - low[1]) / max(high[1] - low[1], 1e-6)) - 0.5
        shaded = replace(piece, colour=scale_colour(piece.colour, 1 - light * depth))
        canvas.piece(shaded, points, (part_id, object_id, number), rng)


def count_part(pose: Pose, label: str) -> int:
    """How many of a part a pose has: pieces that go on from one of them, or lie on a larger one, do not count."""
    pieces = [piece for piece in pose.pieces if piece.label == label and not piece.continues]
    low = np.array([piece.points.min(0) for piece in pieces])
    high = np.array([piece.points.max(0) for piece in pieces])
    middle, area = (low + high) / 2, (high - low).prod(1)
    holds = ((middle[:, None] > low) & (middle[:, None] < high)).all(2) & (area[:, None] < 0.5 * area)
    return int((~holds.any(1)).sum())


def flip_and_tilt(pose: Pose, rng: np.random.Generator) -> np.ndarray:
    """Random matrix (2, 2) for row vectors: mirrored half of the time, turned by up to the view's tilt."""
    turn = np.radians(rng.uniform(-pose.view.tilt, pose.view.tilt))
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0]) @ matrix


def _within(centre: float, half: float, size: float, rng: np.random.Generator) -> float:
    """Move a span into the image, leaving at most a sixth of it outside (now and then)."""
    spill = half * 2 * rng.uniform(0, 0.16) if rng.random() < 0.3 else 0.0
    low, high = half - spill, size - half + spill
    return (low + high) / 2 if low > high else float(np.clip(centre, low, high))


def visible_thing(pose: Pose, pixels: np.ndarray, vocabulary: PartVocabulary) -> Thing:
    """What can be seen of a figure, given the part ids of its visible pixels."""
    ids, counts = np.unique(pixels, return_counts=True)
    seen = {vocabulary.parts[i] for i, n in zip(ids, counts, strict=True) if i != NOTHING and n >= VISIBLE_PIXELS}
    labels = dict.fromkeys(piece.label for piece in pose.pieces if f"{pose.name}'s {piece.label}" in seen)
    return Thing(pose.name, pose.colour_word, {label: count_part(pose, label) for label in labels}, int(pixels.size))

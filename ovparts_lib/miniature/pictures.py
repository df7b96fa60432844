"""Picture-caption pairs for MiniClip: scenes, objects, close-ups of parts of all objects, seen and unseen, and stuff.

Labels serve here only to check that what a caption names can be seen; no mask leaves this module.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from PIL import Image

from ovparts_lib.miniature.backgrounds import finish, paint_background
from ovparts_lib.miniature.canvas import Canvas
from ovparts_lib.miniature.captions import object_caption, part_caption, scene_caption, stuff_caption
from ovparts_lib.miniature.figure import Pose, pose_figure
from ovparts_lib.miniature.layouts.stuff import STUFF, paint_stuff
from ovparts_lib.miniature.scene import (
    FIGURES,
    Placed,
    draw_names,
    flip_and_tilt,
    generator,
    paint_figure,
    paint_figures,
    render_scene,
    visible_thing,
)
from ovparts_lib.processes import mapped
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

Kind = Literal["scene", "object", "part", "stuff"]
Topic = tuple[str, str | None, str | None]  # kind, object or kind of stuff, part
SHARES: dict[Kind, float] = {"scene": 0.2, "object": 0.2, "part": 0.5, "stuff": 0.1}
CAPTIONS_PER_PICTURE = 4
LEAST_STUFF = 0.6  # share of a close-up of stuff that shows it


@dataclass(frozen=True)
class CaptionedPicture:
    """One picture, several captions of it, and what it is about (``part`` only for close-ups of parts).

    ``picture`` is uint8 (size, size, 3); ``object`` is a kind of stuff where it shows nothing else.
    """

    picture: np.ndarray
    captions: tuple[str, ...]
    kind: Kind
    object: str
    part: str | None


class CaptionedPictures:
    """Captioned pictures, rendered once and held in memory as uint8 (a 64-pixel picture takes 12 KiB).

    Args:
        count: number of pictures.
        size: side of the square pictures in pixels.
        seed: picture ``i`` depends on (seed, i), size and shares only.
        shares: relative frequency of scenes, object pictures, and close-ups of parts and of stuff.
        processes: worker processes that render.
        progress: show a progress bar.

    Attributes:
        pictures: uint8 (count, 3, size, size), RGB.
        captions: the captions of each picture.
        topics: (kind, object, part) of each picture; None where a scene has no single object, an object no part.
    """

    def __init__(
        self,
        count: int,
        *,
        size: int = 64,
        seed: int = 0,
        shares: dict[Kind, float] = SHARES,
        processes: int = 1,
        progress: bool = True,
    ) -> None:
        if count < 1:
            raise ValueError(f"at least one picture is needed; got count={count}")
        self.seed, self.size, self.shares = seed, size, dict(shares)
        self.pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
        self.captions: list[tuple[str, ...]] = []
        self.topics: list[Topic] = []
        render = partial(render_picture, seed=seed, size=size, shares=self.shares)
        drawn = mapped(render, range(count), processes=processes, chunk=64)
        shown = tqdm(drawn, "drawing captioned pictures", count, disable=not progress)
        for index, made in enumerate(shown):
            self.pictures[index] = torch.from_numpy(made.picture).permute(2, 0, 1)
            self.captions.append(made.captions)
            self.topics.append((made.kind, None if made.kind == "scene" else made.object, made.part))

    def __len__(self) -> int:
        return len(self.pictures)


def render_picture(index: int, *, seed: int, size: int, shares: dict[Kind, float] = SHARES) -> CaptionedPicture:
    """Draw captioned picture number ``index`` of the stream ``seed``."""
    rng = generator(seed, "captions", index)
    weights = np.array([shares.get(kind, 0.0) for kind in SHARES])
    kind = list(SHARES)[rng.choice(len(weights), p=weights / weights.sum())]
    draw = {"scene": _scene_picture, "object": _object_picture, "part": _part_picture, "stuff": _stuff_picture}[kind]
    return draw(rng, size)


def _scene_picture(rng: np.random.Generator, size: int) -> CaptionedPicture:
    scene = render_scene(rng, vocabulary())
    while not scene.things:
        scene = render_scene(rng, vocabulary())
    picture = Image.fromarray(scene.image).resize((size, size), Image.Resampling.BILINEAR)
    captions = tuple(scene_caption(scene.things, scene.place, rng) for _ in range(CAPTIONS_PER_PICTURE))
    return CaptionedPicture(np.array(picture), captions, "scene", scene.things[0].name, None)


def _object_picture(rng: np.random.Generator, size: int) -> CaptionedPicture:
    name = draw_names(rng, 1)[0]
    while True:
        pose = pose_figure(FIGURES[name], rng)
        everything = np.concatenate([piece.points for piece in pose.pieces])
        picture, part_map = _draw_around(pose, everything, rng.uniform(1.0, 1.7), size, rng)
        thing = visible_thing(pose, part_map, vocabulary())
        if thing.parts or not vocabulary().parts_of(vocabulary().object_id(name)):
            break
    captions = tuple(object_caption(thing, rng) for _ in range(CAPTIONS_PER_PICTURE))
    return CaptionedPicture(picture, captions, "object", name, None)


def _part_picture(rng: np.random.Generator, size: int) -> CaptionedPicture:
    part_id = int(rng.integers(len(vocabulary().parts)))
    name, part = vocabulary().pairs[part_id]
    least = 0.02 * size * size
    while True:
        pose = pose_figure(FIGURES[name], rng)
        pieces = [piece for piece in pose.pieces if piece.label == part]
        if not pieces:
            continue
        chosen = [pieces[rng.integers(len(pieces))]] if rng.random() < 0.4 else pieces
        around = np.concatenate([piece.points for piece in chosen])
        picture, part_map = _draw_around(pose, around, rng.uniform(1.05, 2.2), size, rng)
        if (part_map == part_id).sum() >= least:
            break
    captions = tuple(part_caption(name, part, pose.colour_word, rng) for _ in range(CAPTIONS_PER_PICTURE))
    return CaptionedPicture(picture, captions, "part", name, part)


def _stuff_picture(rng: np.random.Generator, size: int) -> CaptionedPicture:
    while True:
        canvas = Canvas(2 * size, 2 * size)
        _, labels = paint_stuff(canvas, rng)
        name = STUFF[rng.choice(np.unique(labels))]
        side = int(rng.integers(size // 2, 2 * size))
        left, top = rng.integers(0, 2 * size - side, 2)
        window = slice(top, top + side), slice(left, left + side)
        if (labels[window] == STUFF.index(name)).mean() >= LEAST_STUFF:
            break
    picture = Image.fromarray(finish(canvas.image(), rng)[window]).resize((size, size), Image.Resampling.BILINEAR)
    captions = tuple(stuff_caption(name, rng) for _ in range(CAPTIONS_PER_PICTURE))
    return CaptionedPicture(np.array(picture), captions, "stuff", name, None)


def _draw_around(
    pose: Pose, points: np.ndarray, margin: float, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a figure so that ``points`` fill the square but for a margin; returns picture and part map (size, size).

    Sometimes other figures stand behind it.
    """
    canvas = Canvas(size, size)
    paint_background(canvas, rng)
    count = int(rng.integers(1, 3)) if rng.random() < 0.3 else 0
    behind = [pose_figure(FIGURES[name], rng) for name in draw_names(rng, count)]
    paint_figures(canvas, behind, vocabulary(), rng)
    matrix = flip_and_tilt(pose, rng)
    turned = points @ matrix
    low, high = turned.min(0), turned.max(0)
    scale = size / (margin * max((high - low).max(), 0.02))
    slack = (margin - 1) / margin * size * 0.35
    at = size / 2 - (low + high) / 2 * scale + rng.uniform(-slack, slack, 2)
    paint_figure(canvas, Placed(pose, matrix * scale, at), vocabulary(), len(behind), rng)
    part_map, _, instances = canvas.label_maps()
    return finish(canvas.image(), rng), np.where(instances == len(behind), part_map, 255)


@cache
def vocabulary() -> PartVocabulary:
    """The classes that are drawn."""
    return load_vocabulary("pascal_part_116")

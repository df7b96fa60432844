"""Captioned pictures for MiniClip: cut out of scenes, of all objects, seen and unseen, and drawn anew all the time.

Labels serve here only to tell what can be seen in a picture, so that a caption names it; no mask leaves this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ovparts_lib.miniature.captions import choose, object_caption, part_caption, scene_caption, with_article
from ovparts_lib.miniature.scene import Scene, Thing, generator, render_scene
from ovparts_lib.miniature.words import PLACE_WORDS, Words
from ovparts_lib.vocabularies import PartVocabulary

Kind = Literal["scene", "window", "object", "part"]
SHARES: dict[Kind, float] = {"scene": 0.1, "window": 0.35, "object": 0.15, "part": 0.4}
# A quarter of a patch of 8 x 8 pixels: what is smaller is not said to be seen.
LEAST_PIXELS = 16


@dataclass(frozen=True)
class CaptionedPicture:
    """A square picture and what is said of it.

    Attributes:
        picture: uint8 (size, size, 3).
        caption: a sentence.
        words: which of the :class:`Words` are true of it, bool (count,).
        kind: whole scene, window of one, cut around an object, or around a part.
        part: the part that a picture around a part was cut around.
    """

    picture: np.ndarray
    caption: str
    words: np.ndarray
    kind: Kind
    part: int | None


class ScenePool:
    """A window of ``size`` scenes that moves over an endless stream of them, a few with every training step.

    Args:
        vocabulary: whose objects are drawn.
        size: scenes to draw from at any time.
        fresh: new scenes a step.
        seed: of the stream; scene ``i`` depends on (seed, i) only.
    """

    def __init__(self, vocabulary: PartVocabulary, size: int, fresh: int, seed: int) -> None:
        self.vocabulary, self.size, self.fresh, self.seed = vocabulary, size, fresh, seed
        self._scenes: dict[int, Scene] = {}

    def at(self, step: int, place: int) -> Scene:
        """The scene at ``place`` of the window of a step, places 0 to ``size - 1``; rendered when first asked for."""
        first = step * self.fresh
        for number in range(first - self.fresh, first):
            self._scenes.pop(number, None)
        number = first + place
        if number not in self._scenes:
            self._scenes[number] = render_scene(generator(self.seed, "captions", number), self.vocabulary)
        return self._scenes[number]


def cut_out(
    scene: Scene, words: Words, size: int, rng: np.random.Generator, shares: dict[Kind, float] = SHARES
) -> CaptionedPicture:
    """A random square picture of a scene, ``size`` pixels wide, with a caption of what can be seen in it."""
    kind: Kind = list(shares)[rng.choice(len(shares), p=np.array(list(shares.values())) / sum(shares.values()))]
    kind, box, part = _box(scene, kind, size, rng)
    picture = Image.fromarray(scene.image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    columns, rows = (
        (low + (np.arange(size) + 0.5) * (high - low) / size).astype(int)
        for low, high in zip(box[:2], box[2:], strict=True)
    )
    part_map, object_map = (labels[np.ix_(rows, columns)] for labels in (scene.part_map, scene.object_map))
    shown = words.shown(part_map, object_map, scene.place, LEAST_PIXELS)
    if part is not None and not shown[part]:
        kind, part = "window", None
    colours = {thing.name: thing.colour for thing in scene.things}
    if part is not None:
        thing, name = words.parts[part]
        caption = part_caption(thing, name, colours.get(thing, "white"), rng)
    else:
        caption = _caption(scene, _things(shown, object_map, words, colours), rng)
    return CaptionedPicture(np.asarray(picture), caption, shown, kind, part)


def _box(
    scene: Scene, kind: Kind, size: int, rng: np.random.Generator
) -> tuple[Kind, tuple[float, float, float, float], int | None]:
    """What is cut out: left, top, right, bottom in pixels of the scene; and the part it is about."""
    height, width = scene.part_map.shape
    if kind in ("object", "part"):
        labels = scene.instance_map if kind == "object" else scene.part_map
        ids, counts = np.unique(labels, return_counts=True)
        large = ids[(ids != 255) & (counts >= LEAST_PIXELS * (4 if kind == "object" else 1))]
        if len(large):
            chosen = int(large[rng.integers(len(large))])
            rows, columns = np.nonzero(labels == chosen)
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            side = max(extent * rng.uniform(1.0, 1.7 if kind == "object" else 2.2), size / 2.2)
            centre = [(axis.min() + axis.max() + 1) / 2 + rng.uniform(-0.15, 0.15) * side for axis in (columns, rows)]
            return kind, _within(centre, side, width, height), chosen if kind == "part" else None
        kind = "window"
    if kind == "window":
        side = min(size * rng.uniform(0.9, 2.0), width, height)
        centre = [rng.uniform(0, 1) * length for length in (width, height)]
        return kind, _within(centre, side, width, height), None
    return kind, (0, 0, width, height), None


def _within(centre: list[float], side: float, width: int, height: int) -> tuple[float, float, float, float]:
    """A box of the given side around a centre, moved into the scene, and cut where it is too large for it."""
    spans = []
    for middle, length in zip(centre, (width, height), strict=True):
        extent = min(side, length)
        low = float(np.clip(middle - extent / 2, 0, length - extent))
        spans.append((low, min(low + extent, float(length))))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def _things(shown: np.ndarray, object_map: np.ndarray, words: Words, colours: dict[str, str]) -> tuple[Thing, ...]:
    """The objects of a picture as a caption may tell of them; how many of a part there are is not counted."""
    parts = np.flatnonzero(shown[: len(words.parts)])
    things = []
    for number in np.flatnonzero(shown[words.first_object : words.first_generic]):
        name = words.objects[number]
        own = {words.parts[part][1]: 1 for part in parts if words.part_to_object[part] == number}
        things.append(Thing(name, colours.get(name, "white"), own, int((object_map == number).sum())))
    return tuple(things)


def _caption(scene: Scene, things: tuple[Thing, ...], rng: np.random.Generator) -> str:
    if not things:
        return f"a photo of {with_article(choose(PLACE_WORDS[scene.place], rng))}"
    if len(things) == 1 and rng.random() < 0.5:
        return object_caption(things[0], rng)
    return scene_caption(things, scene.place, rng)

"""Scenes whose objects and parts are captioned one by one: boxes with captions, of all objects, never a mask."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from skimage.measure import regionprops
from torch import Tensor

from ovparts_lib.miniature.canvas import NOTHING
from ovparts_lib.miniature.captions import object_caption, part_caption
from ovparts_lib.miniature.pictures import CAPTIONS_PER_PICTURE, Topic, vocabulary
from ovparts_lib.miniature.scene import LEAST_PIXELS, Scene, Thing, generator, render_scene
from ovparts_lib.processes import mapped
from ovparts_lib.progress_bar import tqdm

SCENE_SIZE = 96  # what the systems' miniatures look at
LEAST_SHARE = 0.0025  # of a picture that a region shows; a third of a patch


@dataclass(frozen=True)
class Region:
    """A box and what captions say of it.

    Attributes:
        box: left, top, right, bottom as shares of the picture's width and height.
        captions: several of them.
        topic: ``("region", object, part)``; no part where the whole object is meant.
    """

    box: tuple[float, float, float, float]
    captions: tuple[str, ...]
    topic: Topic


class CaptionedScenes:
    """Scenes with captioned regions, rendered once and held in memory as uint8 (a scene takes 27 KiB).

    Args:
        count: number of scenes.
        size: side of the square pictures in pixels; scenes are squashed to it.
        seed: scene ``i`` depends on (seed, i) only.
        processes: worker processes that render.
        progress: show a progress bar.

    Attributes:
        pictures: uint8 (count, 3, size, size), RGB.
        boxes: of all regions, float32 (r, 4), as :class:`Region` has them.
        scene_of: the scene of each region, int64 (r,), ascending.
        captions: the captions of each region.
        topics: of each region.
    """

    def __init__(
        self, count: int, *, size: int = SCENE_SIZE, seed: int = 0, processes: int = 1, progress: bool = True
    ) -> None:
        self.pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
        drawn = mapped(partial(_render, seed=seed, size=size), range(count), processes=processes, chunk=64)
        regions: list[Region] = []
        numbers = []
        for index, (picture, shown) in enumerate(tqdm(drawn, "drawing scenes", count, disable=not progress)):
            self.pictures[index] = torch.from_numpy(picture).permute(2, 0, 1)
            regions += shown
            numbers += [index] * len(shown)
        if not regions:
            raise ValueError(f"no object can be seen in {count} scenes; draw more")
        self.boxes = torch.tensor([region.box for region in regions])
        self.scene_of = torch.tensor(numbers)
        self.captions = [region.captions for region in regions]
        self.topics = [region.topic for region in regions]

    def draw(self, count: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random scenes, half of them mirrored, and random ones of their regions.

        Args:
            count: scenes.
            most: regions of all of them together, r.
            generator: what is drawn with.

        Returns:
            Pictures (count, 3, size, size); and of each region its number (r,), the place of its scene among the
            pictures (r,), and its box (r, 4).
        """
        scenes = torch.randperm(len(self.pictures), generator=generator)[:count].sort().values
        chosen = torch.isin(self.scene_of, scenes).nonzero().flatten()
        chosen = chosen[torch.randperm(len(chosen), generator=generator)[:most]]
        places, boxes = torch.searchsorted(scenes, self.scene_of[chosen]), self.boxes[chosen]
        flip = torch.rand(len(scenes), generator=generator) < 0.5
        pictures = self.pictures[scenes]
        pictures = torch.where(flip[:, None, None, None], pictures.flip(-1), pictures)
        left, top, right, bottom = boxes.T
        mirrored = torch.stack([1 - right, top, 1 - left, bottom], 1)
        return pictures, chosen, places, torch.where(flip[places, None], mirrored, boxes)


def _render(index: int, *, seed: int, size: int) -> tuple[np.ndarray, list[Region]]:
    rng = generator(seed, "regions", index)
    scene = render_scene(rng, vocabulary())
    picture = Image.fromarray(scene.image).resize((size, size), Image.Resampling.BILINEAR)
    return np.array(picture), regions_of(scene, rng)


def regions_of(scene: Scene, rng: np.random.Generator) -> list[Region]:
    """The objects of a scene, and their parts, of which enough can be seen: tight boxes with captions."""
    height, width = scene.part_map.shape
    extent = np.array([width, height] * 2)
    numbers, counts = np.unique(scene.instance_map, return_counts=True)
    present = [n for n, count in zip(numbers, counts, strict=True) if n != NOTHING and count >= LEAST_PIXELS]
    regions = []
    for number, thing in zip(present, scene.things, strict=True):
        inside = scene.instance_map == number
        parts = np.where(inside & (scene.part_map != NOTHING), scene.part_map + 1, 0)
        shown = [(None, region) for region in regionprops(inside.astype(np.uint8))]
        shown += [(vocabulary().pairs[region.label - 1][1], region) for region in regionprops(parts)]
        for part, region in shown:
            if region.area < LEAST_SHARE * height * width:
                continue
            captions = tuple(_caption(thing, part, rng) for _ in range(CAPTIONS_PER_PICTURE))
            top, left, bottom, right = region.bbox
            box = np.array([left, top, right, bottom]) / extent
            regions.append(Region(tuple(box.tolist()), captions, ("region", thing.name, part)))
    return regions


def _caption(thing: Thing, part: str | None, rng: np.random.Generator) -> str:
    if part is None:
        return object_caption(replace(thing, parts={}), rng)
    return part_caption(thing.name, part, thing.colour, rng)


def region_means(features: Tensor, pictures: Tensor, boxes: Tensor) -> Tensor:
    """Means of dense features over boxes, each patch by the share of it that lies inside.

    Args:
        features: (n, d, gh, gw).
        pictures: int64 (r,), the picture of each box.
        boxes: (r, 4), as :class:`Region` has them.

    Returns:
        (r, d).
    """
    left, top, right, bottom = boxes.T
    rows, columns = _shares(top, bottom, features.shape[2]), _shares(left, right, features.shape[3])
    return torch.einsum("rdhw,rh,rw->rd", features[pictures], rows, columns)


def _shares(low: Tensor, high: Tensor, length: int) -> Tensor:
    """How much of each span lies in each of ``length`` equal cells of 0 to 1: (r, length), which sum to one."""
    edges = torch.arange(length, device=low.device)
    inside = torch.minimum(high[:, None] * length, edges + 1) - torch.maximum(low[:, None] * length, edges)
    inside = inside.clamp(min=0)
    return inside / inside.sum(1, keepdim=True)

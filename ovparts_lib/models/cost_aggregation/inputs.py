"""From pictures of any size to the two squares that a cost-aggregation system sees: CLIP's and the guidance backbone's.

The released pipeline: shorter side to a fixed length, normalise, pad right and below to a multiple of 32, squash to a
square. The padding stays in the square, so the maps that come out span more than the picture; by how much is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.images import (
    CLIP_STATISTICS,
    IMAGENET_STATISTICS,
    checked_images,
    normalise,
    resize_image,
    shortest_edge_size,
)

STATISTICS = {"clip": CLIP_STATISTICS, "imagenet": IMAGENET_STATISTICS}


@hyper_parameters
class InputSize:
    """How pictures become squares.

    Attributes:
        image_size: side of CLIP's square.
        shortest_edge: pixels of a test picture's shorter side before all else; None for its own size.
        longest_edge: most pixels of its longer side.
        divisor: sides are padded to multiples of it.
        clip_statistics: what CLIP's pixels are normalised with, ``clip`` or ``imagenet``; the backbone's are always
            normalised with ImageNet's.
    """

    image_size: int = 384
    shortest_edge: int | None = 640
    longest_edge: int = 768
    divisor: int = 32
    clip_statistics: Literal["clip", "imagenet"] = "clip"


@dataclass
class SquareInputs:
    """What both towers see.

    Attributes:
        clip: float32 (b, 3, s, s), normalised.
        guidance: float32 (b, 3, g, g), normalised.
        covered: for each picture the (height, width), in its own pixels, that its squares span; at least its size.
    """

    clip: Tensor
    guidance: Tensor
    covered: list[tuple[float, float]]


def resize_for_test(image: Tensor, size: InputSize) -> Tensor:
    """A test picture at the size that is padded and squashed: uint8 (3, h, w) -> uint8 (3, h', w')."""
    if size.shortest_edge is None:
        return image
    return resize_image(image, shortest_edge_size(*image.shape[-2:], size.shortest_edge, size.longest_edge))


def square_inputs(
    images: Sequence[Tensor], size: InputSize, guidance_side: int, device: torch.device, *, test: bool
) -> SquareInputs:
    """Both squares of each picture.

    Args:
        images: uint8 (3, h, w) each, RGB, sizes may differ.
        size: how.
        guidance_side: side of the guidance backbone's square.
        device: where the squares go.
        test: resize the shorter side first; training pictures have been resized and cropped before.

    Returns:
        float32 (b, 3, image_size, image_size) for CLIP, (b, 3, guidance_side, guidance_side) for the backbone.

    Raises:
        ValueError: see :func:`checked_images`.
    """
    clip, guidance, covered = [], [], []
    for image in checked_images(images):
        resized = (resize_for_test(image, size) if test else image).to(device).float()
        height, width = resized.shape[-2:]
        below, right = -height % size.divisor, -width % size.divisor
        covered.append((image.shape[-2] * (height + below) / height, image.shape[-1] * (width + right) / width))
        for squares, statistics, side in (
            (clip, STATISTICS[size.clip_statistics], size.image_size),
            (guidance, IMAGENET_STATISTICS, guidance_side),
        ):
            padded = F.pad(normalise(resized[None], statistics), (0, right, 0, below))
            squares.append(squash(padded, side))
    return SquareInputs(torch.cat(clip), torch.cat(guidance), covered)


def sliding_inputs(
    image: Tensor, size: InputSize, guidance_side: int, device: torch.device, window: SlidingWindow
) -> SquareInputs:
    """Both squares of each window of one picture, row by row, and of the whole picture last.

    Args:
        image: uint8 (3, h, w), RGB.
        size: how; nothing is padded here.
        guidance_side: side of the guidance backbone's square.
        device: where the squares go.
        window: how the picture is cut.

    Returns:
        Squares of ``window.count + 1`` views; ``covered`` is that of the whole picture.
    """
    (image,) = checked_images([image])
    resized = resize_for_test(image, size).to(device).float()[None]
    square = squash(resized, window.side)
    crops = [square[..., top : top + window.crop, left : left + window.crop] for top, left in window.corners]
    views = torch.cat([*crops, squash(resized, window.crop)])
    return SquareInputs(
        squash(normalise(views, STATISTICS[size.clip_statistics]), size.image_size),
        squash(normalise(views, IMAGENET_STATISTICS), guidance_side),
        [tuple(image.shape[-2:])],
    )


@dataclass(frozen=True)
class SlidingWindow:
    """Square crops of a square picture (CAT-Seg's sliding-window inference).

    Attributes:
        side: of the square that the picture is squashed to.
        crop: side of a crop.
        overlap: share of a crop that the next one repeats.
    """

    side: int = 640
    crop: int = 384
    overlap: float = 0.333

    def __post_init__(self) -> None:
        if self.side < self.crop or (self.side - self.crop) % self.stride:
            raise ValueError(
                f"crops of {self.crop} pixels every {self.stride} do not cover a side of {self.side}; "
                f"choose a side of {self.crop} plus a multiple of {self.stride}"
            )

    @classmethod
    def around(cls, crop: int) -> SlidingWindow:
        """Two by two crops: 640 pixels for the released crops of 384."""
        return cls(side=crop + cls(crop, crop).stride, crop=crop)

    @property
    def stride(self) -> int:
        """Pixels from one crop to the next."""
        return max(1, int(self.crop * (1 - self.overlap)))

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each crop, row by row."""
        starts = range(0, self.side - self.crop + 1, self.stride)
        return [(top, left) for top in starts for left in starts]

    def fuse(self, maps: Tensor) -> Tensor:
        """Mean of the crops' mean and of the whole view.

        Args:
            maps: (crops + 1, n, crop, crop), the whole view last.

        Returns:
            (n, side, side).
        """
        total = maps.new_zeros(maps.shape[1], self.side, self.side)
        count = maps.new_zeros(self.side, self.side)
        for (top, left), crop in zip(self.corners, maps[:-1], strict=True):
            rows, columns = slice(top, top + self.crop), slice(left, left + self.crop)
            total[:, rows, columns] += crop
            count[rows, columns] += 1
        return (total / count + squash(maps[-1:], self.side)[0]) / 2


def squash(maps: Tensor, side: int) -> Tensor:
    """Maps (b, c, h, w) as squares (b, c, side, side), bilinear without antialiasing, ``align_corners=False``."""
    if tuple(maps.shape[-2:]) == (side, side):
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)

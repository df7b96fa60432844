"""Masked crops: each mask's part of an image as CLIP is shown it, and as it is adapted on it.

Source: Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023 (released code, training
code included, which SCAN's goes back to).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ovparts_lib.images import CLIP_STATISTICS, normalise


@dataclass(frozen=True)
class CropRule:
    """How masks become crops.

    Attributes:
        threshold: a pixel belongs to a mask where its probability is above.
        expand: factor by which the tight box grows about its centre.
        fill: colour outside the mask, CLIP's mean or black.
        matting: weigh pixels by the probability in place of the mask.
    """

    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    expand: Annotated[float, Field(gt=0)] = 1.0
    fill: Literal["mean", "zero"] = "mean"
    matting: bool = False


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks.

    Args:
        masks: bool (n, h, w).

    Returns:
        int64 (n, 4): x0, y0, x1, y1, the last two exclusive; all 0 for a mask without pixels.
    """
    sides = []
    for line in (masks.any(1), masks.any(2)):
        places = torch.arange(line.shape[1], device=masks.device)
        last = torch.where(line, places + 1, 0).amax(1)
        first = torch.where(line, places, line.shape[1]).amin(1)
        sides.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1)


def expand_box(box: tuple[int, int, int, int], factor: float, height: int, width: int) -> tuple[int, int, int, int]:
    """A box (x0, y0, x1, y1) scaled about its centre, cut down to whole pixels and to the image.

    In double precision, as the released code was run: in single precision some boxes move by a pixel.
    """
    sides = []
    for first, last, length in ((box[0], box[2], width), (box[1], box[3], height)):
        centre, half = 0.5 * (first + last), 0.5 * factor * (last - first)
        sides.append([min(max(int(edge), 0), length) for edge in (centre - half, centre + half)])
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def cut_crops(
    image: Tensor, masks: Sequence[Tensor], boxes: Tensor, side: int, rule: CropRule
) -> tuple[Tensor, Tensor]:
    """Crops with everything outside the mask filled, squashed to squares.

    Args:
        image: (3, h, w) RGB, 0..255.
        masks: n of (h, w), probabilities or bool.
        boxes: int64 (n, 4), of :func:`mask_boxes`; none empty.
        side: of the squares.
        rule: how.

    Returns:
        float32 (n, 3, side, side), normalised for CLIP, by bicubic interpolation without antialiasing and without
        clamping; and the masks in the boxes, float32 (n, side, side), by nearest neighbour.
    """
    mean = image.new_tensor(CLIP_STATISTICS[0], dtype=torch.float32).view(3, 1, 1)
    fill = mean if rule.fill == "mean" else torch.zeros_like(mean)
    crops, kept = [], []
    for mask, box in zip(masks, boxes.tolist(), strict=True):
        left, top, right, bottom = expand_box(tuple(box), rule.expand, *image.shape[-2:])
        weight = mask[top:bottom, left:right]
        weight = (weight if rule.matting else weight > rule.threshold).float()
        crop = image[:, top:bottom, left:right].float() * weight + (1 - weight) * fill
        crop = normalise(crop, CLIP_STATISTICS)[None]
        crops.append(F.interpolate(crop, size=(side, side), mode="bicubic", align_corners=False))
        kept.append(F.interpolate(weight[None, None], size=(side, side), mode="nearest"))
    return torch.cat(crops), torch.cat(kept)[:, 0]


FILL = (124, 116, 103)  # ImageNet's mean, which the released transform looks for; not the CLIP mean of test time


def masked_crop(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tight box of a mask, bool (H, W), with ``FILL`` outside: uint8 (3, h, w), and the mask in it."""
    left, top, right, bottom = mask_boxes(mask[None])[0].tolist()
    mask = mask[top:bottom, left:right].cpu()
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    return torch.where(mask, image[:, top:bottom, left:right].cpu(), fill), mask


def pair_transform(side: int, *, train: bool) -> v2.Transform:
    """The released transforms of a crop, a PIL image (bicubic), and of its mask (nearest neighbour)."""
    bicubic = v2.InterpolationMode.BICUBIC
    if train:
        return v2.RandomResizedCrop(side, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3), interpolation=bicubic)
    return v2.Compose([v2.Resize(side, interpolation=bicubic), v2.CenterCrop(side)])


def mask_by_colour(crop: Tensor) -> Tensor:
    """Pixels of uint8 (3, h, w) that are not exactly of the fill's colour, bool (h, w)."""
    return (crop != torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)).any(0)


def transformed(transform: v2.Transform, crop: Image.Image, mask: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """A crop and its mask under the same random choice: float32 (3, s, s) as CLIP takes it, and (s, s)."""
    pixels, kept = transform(crop, tv_tensors.Mask(mask))
    return clip_pixels(v2.functional.pil_to_tensor(pixels)), kept.as_subclass(Tensor)


def clip_pixels(crop: Tensor) -> Tensor:
    """uint8 (3, h, w) as CLIP takes it, float32."""
    return normalise(crop, CLIP_STATISTICS)

"""Masked crops: each mask's part of an image as CLIP is shown it.

Source: Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023 (released code).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.images import CLIP_STATISTICS, normalise


@hyper_parameters
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

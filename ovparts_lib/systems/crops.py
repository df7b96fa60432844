"""The CLIP branch of systems that classify mask proposals: every mask's crop, and what the image tower makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from ovparts_lib.models.clip.crops import CropRule, cut_crops, mask_boxes
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.models.clip.towers import AfterBlock, image_embeddings

_MASKS_AT_ONCE = 16  # of bool masks, to bound memory


@dataclass
class Crops:
    """Masks of an image that have a pixel, v of k, as CLIP is shown them.

    Attributes:
        valid: bool (k,), which have.
        boxes: int64 (v, 4), x0, y0, x1, y1, the last two exclusive.
        pixels: float32 (v, 3, side, side), normalised.
        kept: bool (v, patches), patches that hold any of the mask.
        embeddings: float32 (v, embed_dim), normalised; None until they are made.
    """

    valid: Tensor
    boxes: Tensor
    pixels: Tensor
    kept: Tensor
    embeddings: Tensor | None = None


def cut(image: Tensor, masks: Tensor, rule: CropRule, visual: VisionTransformer) -> Crops:
    """Crops of masks.

    Args:
        image: (3, h, w) RGB, 0..255.
        masks: (k, h, w), probabilities or bool.
        rule: how masks become crops.
        visual: the image tower that will see them.
    """
    boxes = torch.cat([mask_boxes(some > rule.threshold) for some in masks.split(_MASKS_AT_ONCE)])
    valid = boxes[:, 2] > 0
    side, patch = visual.image_size[0], visual.patch_size[0]
    if not valid.any():
        empty = image.new_zeros(0, 3, side, side, dtype=torch.float32)
        return Crops(valid, boxes[valid], empty, valid.new_zeros(0, (side // patch) ** 2))
    shown = [masks[number] for number in valid.nonzero()[:, 0]]  # views: all masks at once may take half a gigabyte
    pixels, crop_masks = cut_crops(image, shown, boxes[valid], side, rule)
    return Crops(valid, boxes[valid], pixels, patch_masks(crop_masks, patch))


def embed_crops(
    visual: VisionTransformer, crops: Crops, at_once: int, hook_of: Callable[[Tensor], AfterBlock] | None = None
) -> Tensor:
    """CLIP embeddings of crops, normalised, float32 (v, embed_dim).

    Args:
        visual: the image tower.
        crops: of one image.
        at_once: crops in one pass; bounds memory and changes no result.
        hook_of: gives the ``after_block`` hook of some of the crops, int64 (n,); None for none.
    """
    embeddings = [crops.pixels.new_zeros(0, visual.output_dim)]
    for rows in torch.arange(len(crops.pixels), device=crops.pixels.device).split(at_once):
        hook = None if hook_of is None else hook_of(rows)
        features = image_embeddings(visual, crops.pixels[rows], after_block=hook)
        embeddings.append(F.normalize(features.float(), dim=-1))
    return torch.cat(embeddings)

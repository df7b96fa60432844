"""The CLIP branch: every mask's crop classified by the mask-adapted image tower."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from ovparts_lib.models.clip.crops import CropRule, cut_crops, mask_boxes
from ovparts_lib.models.clip.token_masks import mask_prompts, patch_masks
from ovparts_lib.models.clip.towers import image_embeddings


@dataclass
class Regions:
    """Masks of an image that have a pixel, v of k.

    Attributes:
        valid: bool (k,), which have.
        boxes: int64 (v, 4), x0, y0, x1, y1, the last two exclusive.
        embeddings: float32 (v, embed_dim), normalised.
    """

    valid: Tensor
    boxes: Tensor
    embeddings: Tensor


def encode_regions(
    visual: VisionTransformer,
    image: Tensor,
    masks: Tensor,
    rule: CropRule,
    *,
    prompts: Tensor | None,
    at_once: int,
) -> Regions:
    """CLIP embeddings of masked crops, a few at a time.

    Args:
        visual: the image tower.
        image: (3, h, w) RGB, 0..255.
        masks: (k, h, w), probabilities or bool.
        rule: how masks become crops.
        prompts: see :func:`models.clip.token_masks.mask_prompts`; None leaves blank patches as they are.
        at_once: crops in one pass; bounds memory and changes no result.
    """
    binary = (some if some.dtype == torch.bool else some > rule.threshold for some in masks.split(16))
    boxes = torch.cat([mask_boxes(some) for some in binary])
    valid = boxes[:, 2] > 0
    side, patch = visual.image_size[0], visual.patch_size[0]
    embeddings = [image.new_zeros(0, visual.output_dim, dtype=torch.float32)]
    present = valid.nonzero()[:, 0]
    for start in range(0, len(present), at_once):
        numbers = present[start : start + at_once]
        crops, crop_masks = cut_crops(image, masks[numbers], boxes[numbers], side, rule)
        hook = None if prompts is None else mask_prompts(visual, prompts, patch_masks(crop_masks, patch))
        embeddings.append(F.normalize(image_embeddings(visual, crops, after_block=hook).float(), dim=-1))
    return Regions(valid, boxes[valid], torch.cat(embeddings))

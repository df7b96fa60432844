"""Masks on CLIP's patches, and the mask prompts that stand in for patches without any of the mask.

Source: Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023.
"""

from collections.abc import Callable

import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor


def patch_masks(masks: Tensor, patch: int) -> Tensor:
    """Patches that hold any of a mask, however little.

    Args:
        masks: (n, h, w), 0 outside; sides are multiples of ``patch``.
        patch: pixels of a patch's side.

    Returns:
        bool (n, gh * gw), row by row.
    """
    return (F.max_pool2d(masks[:, None].float(), patch) > 0).flatten(1)


def mask_prompts(visual: VisionTransformer, prompts: Tensor, kept: Tensor) -> Callable[[int, Tensor], Tensor]:
    """An ``after_block`` hook of :func:`models.clip.towers.image_embeddings` that prompts blank patches.

    A blank patch enters the tower as a learned embedding in place of its own, and is set to another one after each of
    the first blocks; class token and other patches are left alone.

    Args:
        visual: the image tower.
        prompts: (depth, gh * gw, width), the first for the tower's input, before positions are added.
        kept: bool (n, gh * gw), patches that stay, of :func:`patch_masks`.

    Raises:
        ValueError: the prompts are for another number of patches.
    """
    if prompts.shape[1] != kept.shape[1]:
        raise ValueError(f"mask prompts are for {prompts.shape[1]} patches, the image has {kept.shape[1]}")

    def after_block(number: int, tokens: Tensor) -> Tensor:
        if number >= len(prompts):
            return tokens
        # the first prompt is a patch embedding, so positions and norm follow, token by token
        prompt = prompts[number]
        if number == 0:
            prompt = visual.ln_pre(prompt + visual.positional_embedding[1:])
        blank = F.pad(~kept, (1, 0))[..., None]
        return tokens.where(~blank, F.pad(prompt, (0, 0, 1, 0)).to(tokens.dtype))

    return after_block

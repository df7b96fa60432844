"""Dense CLIP features in the space of the text embeddings: the last block reduced to its value path."""

from collections.abc import Collection
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from ovparts_lib.models.clip.towers import HiddenStates, image_hidden_states


@dataclass
class DenseFeatures:
    """What :func:`dense_image_features` gives.

    Attributes:
        features: (b, embed_dim, gh, gw), not normalised.
        hidden: states and attention maps of inner blocks that were asked for.
    """

    features: Tensor
    hidden: HiddenStates


def value_block(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """A block in which every token keeps its own value in place of a mixture of all: no queries, no keys.

    Both residual connections and the MLP remain, unlike in MaskCLIP.

    Args:
        block: the last block of an image tower.
        tokens: (b, t, width).

    Returns:
        (b, t, width).
    """
    attention, width = block.attn, tokens.shape[-1]
    value = F.linear(block.ln_1(tokens), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    tokens = tokens + attention.out_proj(value)
    return tokens + block.mlp(block.ln_2(tokens))


def dense_image_features(
    visual: VisionTransformer,
    pixels: Tensor,
    *,
    layers: Collection[int] = (),
    keep_attention: Collection[int] = (),
) -> DenseFeatures:
    """Features of every patch that can be compared with text embeddings.

    Args:
        visual: the image tower.
        pixels: (b, 3, h, w), normalised; the position embedding is resized to their patches by
            :func:`models.clip.towers.resize_position_embedding`, with gradient.
        layers: hidden states to keep as well; 0 is after ``ln_pre``, k after the k-th block; not the last block.
        keep_attention: numbers (from 1) of blocks whose attention maps are wanted; not the last one, which has none.

    Returns:
        See :class:`DenseFeatures`.
    """
    depth = len(visual.transformer.resblocks)
    hidden = image_hidden_states(visual, pixels, {*layers, depth - 1}, keep_attention=keep_attention)
    tokens = value_block(visual.transformer.resblocks[-1], hidden.states[depth - 1])
    patches = visual.ln_post(tokens[:, 1:]) @ visual.proj
    return DenseFeatures(rearrange(patches, "b (h w) d -> b d h w", h=hidden.grid[0]), hidden)

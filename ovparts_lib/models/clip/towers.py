"""The CLIP image tower, over open_clip's modules: sizes, construction, hidden states and attention.

open_clip supplies the parameters (and therefore the names in a checkpoint); the forward pass is written out here,
because the systems of this workbook need what ``encode_image`` does not give: activations of inner blocks, images of
another size than in pre-training, attention maps, and no more blocks than are used.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import open_clip
import torch
import torch.nn.functional as F
from einops import rearrange
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from ovparts_lib.checked import hyper_parameters

Activation = Literal["quick_gelu", "gelu"]
AfterBlock = Callable[[int, Tensor], Tensor]


class ActivationError(ValueError):
    """Weights trained with one activation meet a tower built with the other: outputs would be subtly wrong."""


@hyper_parameters
class ClipSize:
    """Hyper-parameters of a CLIP with a ViT image tower; MLPs are four times as wide as their tower.

    ``temperature`` is what cosines of images and texts are multiplied by, as the training of the weights ended.
    """

    name: str
    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    context_length: int = 77
    vocab_size: int = 49408
    temperature: float = 100.0


VIT_B_16 = ClipSize("ViT-B-16", 512, 224, 16, 768, 12, 12, 512, 12, 8)
VIT_L_14 = ClipSize("ViT-L-14", 768, 224, 14, 1024, 24, 16, 768, 12, 12)
MINIATURE = ClipSize("miniature", 96, 64, 8, 96, 5, 3, 96, 2, 3, temperature=20.0)


@dataclass
class HiddenStates:
    """Activations of the image tower.

    Attributes:
        states: ``{k: (b, 1 + gh * gw, width)}``, token 0 is the class token; k = 0 is the input of the first block
            (after ``ln_pre``), k the output of the k-th block.
        grid: patches (gh, gw).
        attention: ``{k: (b, heads, t, t)}``, softmax weights inside the k-th block, rows are the asking tokens; empty
            unless asked for.
    """

    states: dict[int, Tensor]
    grid: tuple[int, int]
    attention: dict[int, Tensor] = field(default_factory=dict)


def build_clip(size: ClipSize, *, quick_gelu: bool = True) -> open_clip.CLIP:
    """A CLIP of the given size, at open_clip's random initialisation.

    Args:
        size: hyper-parameters.
        quick_gelu: ``x * sigmoid(1.702 x)`` in both towers, as in all weights by OpenAI and those derived from them;
            False gives the exact GELU of most of LAION's and DataComp's weights. Loading compares them.
    """
    vision = CLIPVisionCfg(
        layers=size.vision_layers,
        width=size.vision_width,
        head_width=size.vision_width // size.vision_heads,
        patch_size=size.patch_size,
        image_size=size.image_size,
    )
    text = CLIPTextCfg(
        context_length=size.context_length,
        vocab_size=size.vocab_size,
        width=size.text_width,
        heads=size.text_heads,
        layers=size.text_layers,
    )
    return open_clip.CLIP(size.embed_dim, vision, text, quick_gelu=quick_gelu)


def activation_of(clip: open_clip.CLIP) -> Activation:
    """The activation of both towers, the same in all blocks."""
    return "quick_gelu" if isinstance(clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU) else "gelu"


def resize_position_embedding(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embedding for another number of patches: the class token's row as it is, the patches' rows resized.

    Bicubic (a = -0.75) with half-pixel centres, to the exact target size, without antialiasing: the rule of CLIPSeg,
    CAT-Seg and their descendants. (open_clip antialiases, with another kernel: its results differ.)

    Args:
        table: (1 + g * g, c), as stored for a square grid.
        grid: patches wanted, (gh, gw).

    Returns:
        (1 + gh * gw, c), rows in row-major order; ``table`` itself where the grid is already right.

    Raises:
        ValueError: the table's patches do not form a square.
    """
    side = round((len(table) - 1) ** 0.5)
    if side * side != len(table) - 1:
        raise ValueError(f"a position embedding of {len(table)} rows is not 1 + a square number of patches")
    if grid == (side, side):
        return table
    patches = rearrange(table[1:], "(h w) c -> 1 c h w", h=side)
    resized = F.interpolate(patches.float(), size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], rearrange(resized, "1 c h w -> (h w) c").to(table.dtype)])


def embed_patches(visual: VisionTransformer, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """Tokens that enter the first block: patches, class token, positions, ``ln_pre``.

    Args:
        visual: the image tower.
        pixels: (b, 3, h, w), normalised; sides divisible by the patch size.
        kept: int64 (b, k), the patches that enter, of 0..gh * gw - 1 row by row; the others are left out (Li et al.,
            "Scaling Language-Image Pre-training via Masking", CVPR 2023). None keeps all.

    Returns:
        (b, 1 + gh * gw, width), or (b, 1 + k, width).

    Raises:
        ValueError: a side is not a multiple of the patch size.
    """
    patch = visual.patch_size[0]
    if pixels.shape[-2] % patch or pixels.shape[-1] % patch:
        raise ValueError(f"pixels are {tuple(pixels.shape[-2:])}; both sides must be multiples of {patch}")
    patches = visual.conv1(pixels.to(visual.conv1.weight.dtype))
    positions = resize_position_embedding(visual.positional_embedding, tuple(patches.shape[-2:]))
    tokens = rearrange(patches, "b c h w -> b (h w) c")
    class_token = visual.class_embedding.expand(len(tokens), 1, -1)
    # under autocast the sum is float32, and with it the residual stream of all blocks
    tokens = torch.cat([class_token, tokens], dim=1) + positions
    if kept is not None:
        rows = torch.cat([kept.new_zeros(len(kept), 1), kept + 1], dim=1)
        # as rows of a table, because the gradient of other ways to index is added up in the threads' order
        places = rows + tokens.shape[1] * torch.arange(len(tokens), device=tokens.device)[:, None]
        tokens = F.embedding(places, tokens.flatten(0, 1))
    return visual.ln_pre(tokens)


def self_attention(
    attention: nn.MultiheadAttention, tokens: Tensor, *, causal: bool = False, keep_weights: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Multi-head self-attention with the parameters of ``nn.MultiheadAttention``.

    Args:
        attention: its parameters.
        tokens: (b, t, width), already normalised.
        causal: a token attends to itself and those before it.
        keep_weights: compute the softmax in the open and return it; otherwise it is never materialised.

    Returns:
        (b, t, width), and the weights (b, heads, t, t) or None.
    """
    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = rearrange(projected, "b t (three h d) -> three b h t d", three=3, h=attention.num_heads)
    weights = None
    if keep_weights:
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        weights = scores.softmax(-1)
        mixed = weights.to(value.dtype) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return attention.out_proj(rearrange(mixed, "b h t d -> b t (h d)")), weights


def transformer_block(
    block: ResidualAttentionBlock, tokens: Tensor, *, causal: bool = False, keep_weights: bool = False
) -> tuple[Tensor, Tensor | None]:
    """One pre-norm block of either tower; arguments and result as in :func:`self_attention`."""
    attended, weights = self_attention(block.attn, block.ln_1(tokens), causal=causal, keep_weights=keep_weights)
    tokens = tokens + attended
    return tokens + block.mlp(block.ln_2(tokens)), weights


def image_hidden_states(
    visual: VisionTransformer,
    pixels: Tensor,
    layers: Collection[int],
    *,
    keep_attention: Collection[int] = (),
    kept_patches: Tensor | None = None,
    after_block: AfterBlock | None = None,
) -> HiddenStates:
    """Activations of the image tower at the given depths; blocks behind the deepest one needed are not computed.

    Args:
        visual: the image tower.
        pixels: (b, 3, h, w), normalised float; sides divisible by the patch size, not necessarily the pre-training
            size: the position embedding is resized by :func:`resize_position_embedding`.
        layers: which states to keep; 0 is after ``ln_pre``, k after the k-th block.
        keep_attention: numbers (from 1) of the blocks whose attention maps are wanted.
        kept_patches: the patches that enter, see :func:`embed_patches`; the states hold the class token and those.
        after_block: called with a state's number and tokens (b, t, width); what it returns is kept and goes on.

    Raises:
        ValueError: no layer, or one the tower does not have.
    """
    depth = len(visual.transformer.resblocks)
    kept_maps = set(keep_attention)
    last = max([*layers, *kept_maps], default=-1)
    if last < 0 or not set(layers) <= set(range(depth + 1)) or not kept_maps <= set(range(1, depth + 1)):
        raise ValueError(
            f"the image tower has states 0 to {depth} and attention maps 1 to {depth}; asked for states "
            f"{sorted(layers)} and maps {sorted(kept_maps)}"
        )
    tokens = embed_patches(visual, pixels, kept_patches)
    patch = visual.patch_size[0]
    hidden = HiddenStates(states={}, grid=(pixels.shape[-2] // patch, pixels.shape[-1] // patch))
    for number in range(last + 1):
        if number > 0:
            block = visual.transformer.resblocks[number - 1]
            tokens, weights = transformer_block(block, tokens, keep_weights=number in kept_maps)
            if weights is not None:
                hidden.attention[number] = weights
        if after_block is not None:
            tokens = after_block(number, tokens)
        if number in layers:
            hidden.states[number] = tokens
    return hidden


def image_embeddings(visual: VisionTransformer, pixels: Tensor, *, after_block: AfterBlock | None = None) -> Tensor:
    """Embeddings of whole images; in the last block only the class token asks, because no other is read.

    Args:
        visual: the image tower.
        pixels: (b, 3, h, w), normalised.
        after_block: see :func:`image_hidden_states`; not called after the last block.

    Returns:
        (b, embed_dim), not normalised.
    """
    depth = len(visual.transformer.resblocks)
    hidden = image_hidden_states(visual, pixels, {depth - 1}, after_block=after_block)
    tokens, block = hidden.states[depth - 1], visual.transformer.resblocks[-1]
    normed, width = block.ln_1(tokens), tokens.shape[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    query = F.linear(normed[:, :1], weight[:width], bias[:width])
    keys_values = F.linear(normed, weight[width:], bias[width:])
    query, key, value = (
        rearrange(part, "b t (h d) -> b h t d", h=block.attn.num_heads)
        for part in (query, *keys_values.chunk(2, dim=-1))
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    tokens = tokens[:, :1] + block.attn.out_proj(rearrange(mixed, "b h t d -> b t (h d)"))
    tokens = tokens + block.mlp(block.ln_2(tokens))
    return visual.ln_post(tokens[:, 0]) @ visual.proj

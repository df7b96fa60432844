"""MaskFormer's transformer decoder: learned queries ask the image's features for segments."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.models.maskformer.pixel_decoder import xavier_like
from ovparts_lib.models.maskformer.size import ProposalSize


def sine_position(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Position embedding of every cell of a map, normalised to the map's size (DETR's, with temperature 10,000).

    Args:
        height: cells.
        width: cells.
        channels: of the embedding, a multiple of 4; the first half tells the row, the second the column, each
            with sines at even and cosines at odd places.
        device: where the result goes.

    Returns:
        float32 (channels, height, width).
    """
    half = channels // 2
    rates = 10000 ** (2 * torch.arange(half, device=device).div(2, rounding_mode="floor") / half)
    lines = []
    for length in (height, width):
        place = torch.arange(1, length + 1, device=device) / (length + 1e-6) * 2 * math.pi
        angles = place[:, None] / rates
        lines.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1))
    rows = rearrange(lines[0], "h c -> c h 1").expand(-1, -1, width)
    columns = rearrange(lines[1], "w c -> c 1 w").expand(-1, height, -1)
    return torch.cat([rows, columns])


class Mlp(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: channels, from the input's to the output's.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, widths[0]) -> (…, widths[-1])."""
        for layer in self.layers[:-1]:
            tokens = layer(tokens).relu()
        return self.layers[-1](tokens)


def attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Multi-head attention with the parameters of ``nn.MultiheadAttention``, whose dropout acts in training.

    Args:
        attention: its parameters.
        query: (b, q, width).
        key: (b, k, width).
        value: (b, k, width).
        bias: added to the logits, broadcast to (b, heads, q, k); or a bool mask, True where attention is allowed.

    Returns:
        (b, q, width).
    """
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    heads = [
        rearrange(F.linear(tokens, weight, shift), "b t (h d) -> b h t d", h=attention.num_heads)
        for tokens, weight, shift in zip((query, key, value), weights, biases, strict=True)
    ]
    dropout = attention.dropout if attention.training else 0.0
    mixed = F.scaled_dot_product_attention(*heads, attn_mask=bias, dropout_p=dropout)
    return attention.out_proj(rearrange(mixed, "b h t d -> b t (h d)"))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the image, and an MLP; norms after the residuals."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, content: Tensor, query_position: Tensor, memory: Tensor, key: Tensor, key_bias: Tensor | None
    ) -> Tensor:
        """One layer.

        Args:
            content: (b, q, width).
            query_position: (1, q, width), added where queries and keys are made, never to values.
            memory: (b, hw, width), the image.
            key: the image with its positions.
            key_bias: added to the logits of attention to the image, broadcast to (b, heads, q, hw).
        """
        asking = content + query_position
        content = self.norm1(content + self.dropout(attend(self.self_attn, asking, asking, content)))
        asking = content + query_position
        content = self.norm2(content + self.dropout(attend(self.multihead_attn, asking, key, memory, key_bias)))
        hidden = self.linear2(self.dropout(self.linear1(content).relu()))
        return self.norm3(content + self.dropout(hidden))


class TransformerDecoder(nn.Module):
    """Queries, six layers in the published size, and the heads that read a mask and a class embedding from each query.

    Args:
        size: hyper-parameters.
        channels: of the backbone's coarsest map.
        dropout: of attention weights, residuals and MLPs, in training.
    """

    def __init__(self, size: ProposalSize, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        width = size.width
        self.input_proj = nn.Conv2d(channels, width, 1)
        self.query_embed = nn.Embedding(size.queries, width)
        self.layers = nn.ModuleList(DecoderLayer(width, size.heads, size.hidden, dropout) for _ in range(size.layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        xavier_like(self.input_proj)
        self.class_embed = Mlp((width, size.class_hidden, size.clip.embed_dim))
        self.mask_embed = Mlp((width, width, width, width))

    def forward(self, features: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """Query states after each layer.

        Args:
            features: (b, channels, h, w), the backbone's coarsest map.
            key_bias: (b, h * w), added to the logits of attention to the image (ZSSeg+'s object prompt).

        Returns:
            (layers, b, queries, width), each through the one final norm.
        """
        projected = self.input_proj(features)
        memory = rearrange(projected, "b c h w -> b (h w) c")
        position = sine_position(*projected.shape[-2:], projected.shape[1], projected.device)
        key = memory + rearrange(position, "c h w -> 1 (h w) c")
        if key_bias is not None:
            key_bias = rearrange(key_bias, "b k -> b 1 1 k")
        query_position = self.query_embed.weight[None]
        content = torch.zeros_like(query_position).expand(len(memory), -1, -1)
        states = []
        for layer in self.layers:
            content = layer(content, query_position, memory, key, key_bias)
            states.append(self.norm(content))
        return torch.stack(states)

    def mask_logits(self, states: Tensor, mask_features: Tensor) -> Tensor:
        """Masks (…, b, queries, h, w) of states (…, b, queries, width) on mask features (b, width, h, w)."""
        return torch.einsum("...bqc,bchw->...bqhw", self.mask_embed(states), mask_features)

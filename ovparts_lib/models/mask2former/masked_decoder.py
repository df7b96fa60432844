"""Mask2Former's transformer decoder: each query attends to the image inside the mask it predicted a layer before."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.models.mask2former.pixel_decoder import LEVELS
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.models.maskformer.transformer_decoder import Mlp, attend, sine_position


class MaskedDecoderLayer(nn.Module):
    """Masked attention to one scale, self-attention of the queries, an MLP; norms after the residuals."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attention = nn.MultiheadAttention(width, heads)
        self.self_attention = nn.MultiheadAttention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.cross_norm, self.self_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, content: Tensor, query_position: Tensor, memory: Tensor, key: Tensor, allowed: Tensor) -> Tensor:
        """One layer.

        Args:
            content: (b, q, width).
            query_position: (1, q, width), added where queries and keys are made, never to values.
            memory: (b, hw, width), one scale of the image.
            key: the same with its positions.
            allowed: bool (b, 1, q, hw), where a query may attend to.
        """
        asking = content + query_position
        content = self.cross_norm(content + attend(self.cross_attention, asking, key, memory, allowed))
        asking = content + query_position
        content = self.self_norm(content + attend(self.self_attention, asking, asking, content))
        return self.norm(content + self.linear2(self.linear1(content).relu()))


class MaskedDecoder(nn.Module):
    """Learned queries, layers that take turns on three scales, and heads for a class embedding and a mask.

    Args:
        size: hyper-parameters.
    """

    def __init__(self, size: ProposalSize) -> None:
        super().__init__()
        width = size.width
        self.query_feat, self.query_embed = nn.Embedding(size.queries, width), nn.Embedding(size.queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.layers = nn.ModuleList(MaskedDecoderLayer(width, size.heads, size.hidden) for _ in range(size.layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = Mlp((width, size.class_hidden, size.clip.embed_dim))
        self.mask_embed = Mlp((width, width, width, width))

    def forward(self, maps: Sequence[Tensor], mask_features: Tensor) -> Tensor:
        """Query states before the first layer and after each.

        Args:
            maps: three, (b, width, h, w), coarse to fine.
            mask_features: (b, width, h, w).

        Returns:
            (layers + 1, b, queries, width), each through the one final norm.
        """
        # sources of attention; the masks are wanted at their sizes only, and resizing them is linear in the features
        memories, keys, reduced = [], [], []
        for level, source in zip(self.level_embed.weight, maps, strict=True):
            memory = rearrange(source, "b c h w -> b (h w) c") + level
            position = sine_position(*source.shape[-2:], source.shape[1], source.device)
            memories.append(memory)
            keys.append(memory + rearrange(position, "c h w -> (h w) c"))
            size = source.shape[-2:]
            reduced.append(F.interpolate(mask_features.detach(), size=size, mode="bilinear", align_corners=False))
        # layers
        content = self.query_feat.weight.expand(len(mask_features), -1, -1)
        states = [self.decoder_norm(content)]
        for number, layer in enumerate(self.layers):
            level = number % LEVELS
            allowed = self._inside_masks(states[-1], reduced[level])
            content = layer(content, self.query_embed.weight[None], memories[level], keys[level], allowed)
            states.append(self.decoder_norm(content))
        return torch.stack(states)

    def mask_logits(self, states: Tensor, mask_features: Tensor) -> Tensor:
        """Masks (…, b, queries, h, w) of states (…, b, queries, width) on mask features (b, width, h, w)."""
        return torch.einsum("...bqc,bchw->...bqhw", self.mask_embed(states), mask_features)

    @torch.no_grad()
    def _inside_masks(self, states: Tensor, mask_features: Tensor) -> Tensor:
        """Where each query may attend to, bool (b, 1, q, hw): inside its mask, or everywhere if that is empty."""
        inside = self.mask_logits(states, mask_features).flatten(2) >= 0
        return (inside | ~inside.any(-1, keepdim=True))[:, None]

"""Multi-scale deformable attention in plain PyTorch.

Source: Zhu et al., "Deformable DETR", ICLR 2021. Its CUDA kernel samples by the rule of ``grid_sample`` with zeros
beyond the border and ``align_corners=False``, so no compiled operator is needed.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Every query samples a few points of every level around its own place and sums them, weighted.

    Args:
        width: channels.
        heads: of the attention.
        levels: maps that are sampled.
        points: of each head on each level.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj, self.output_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in different directions, their points ever further away; all points weigh the same."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        offsets = directions[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes) -> Tensor:
        """Attention of queries to maps.

        Args:
            query: (b, q, width).
            reference: (q, 2), place of each query, (x, y) in 0..1 of every map.
            memory: (b, s, width), the maps, one after the other, each row by row.
            shapes: (height, width) of the maps; s is the sum of their areas.

        Returns:
            (b, q, width).
        """
        pattern = {"h": self.heads, "l": self.levels, "p": self.points}
        offsets = rearrange(self.sampling_offsets(query), "b q (h l p xy) -> l (b h) q p xy", **pattern, xy=2)
        weights = rearrange(self.attention_weights(query), "b q (h k) -> b h q k", h=self.heads).softmax(-1)
        weights = rearrange(weights, "b h q (l p) -> l (b h) 1 q p", l=self.levels)
        values = rearrange(self.value_proj(memory), "b s (h d) -> (b h) d s", h=self.heads)
        mixed = 0
        for level, (value, (height, width)) in enumerate(zip(split_levels(values, shapes), shapes, strict=True)):
            places = reference[:, None] + offsets[level] / offsets.new_tensor((width, height))
            maps = value.unflatten(2, (height, width))
            sampled = F.grid_sample(maps, 2 * places - 1, align_corners=False)
            mixed = mixed + (sampled * weights[level]).sum(-1)
        return self.output_proj(rearrange(mixed, "(b h) d q -> b q (h d)", h=self.heads))


def split_levels(tokens: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """Tokens (b, channels, s) of several maps, cut into those of each."""
    return tokens.split([height * width for height, width in shapes], dim=-1)


def reference_points(shapes: Shapes, device: torch.device | None = None) -> Tensor:
    """Centres of the cells of maps, float32 (s, 2), (x, y) in 0..1, the maps one after the other."""
    points = []
    for height, width in shapes:
        rows = (torch.arange(height, device=device) + 0.5) / height
        columns = (torch.arange(width, device=device) + 0.5) / width
        points.append(torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1).flatten(0, 1))
    return torch.cat(points)

"""Class aggregation: at every position, the classes attend to each other."""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ovparts_lib.models.cost_aggregation.chunks import DEFAULT_CHUNKS, Chunks
from ovparts_lib.models.cost_aggregation.guided_linear import GuidedLinear

ClassAttentionKind = Literal["linear", "full", "query"]


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with the kernel ``phi(u) = elu(u) + 1``: cost linear in the number of classes (CATSeg).

    Args:
        query: (..., t, d), as are the others.
        key: what is attended to.
        value: what is collected.

    Returns:
        (..., t, d).
    """
    query, key = F.elu(query) + 1, F.elu(key) + 1
    total = query @ key.sum(-2)[..., None]
    return query @ (key.transpose(-2, -1) @ value) / (total + 1e-6)


def attention_weights(query: Tensor, key: Tensor, kind: ClassAttentionKind) -> Tensor:
    """How much each class (row) takes from each class (column).

    Args:
        query: (..., t, d).
        key: (..., t, d).
        kind: of attention.

    Returns:
        (..., t, t), rows sum to 1 (for ``linear`` within 1e-6 of it).
    """
    if kind == "linear":
        scores = (F.elu(query) + 1) @ (F.elu(key) + 1).transpose(-2, -1)
        return scores / (scores.sum(-1, keepdim=True) + 1e-6)
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    if kind == "full":
        return scores.softmax(-1)
    # softmax over the query axis: the query classes share what a class gives; then each row is scaled to sum to 1
    weights = scores.softmax(-2) + 1e-8
    return weights / weights.sum(-1, keepdim=True)


class ClassAggregation(nn.Module):
    """Attention among classes on pooled positions, with text guidance in queries and keys.

    Maps are averaged over ``pooling`` x ``pooling`` positions, refined, resized back (bilinear, ``align_corners``) and
    added. What is added still contains the pooled input, as in the released code.

    Args:
        dim: width.
        text_guidance_dim: width of the text guidance; 0 for none.
        heads: attention heads.
        kind: ``linear`` (CATSeg), ``full`` softmax (CAT-Seg's other choice) or ``query`` (PartCATSeg).
    """

    def __init__(self, dim: int, text_guidance_dim: int, heads: int, kind: ClassAttentionKind = "linear") -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.norm1 = nn.LayerNorm(dim)
        self.query = GuidedLinear(dim, text_guidance_dim)
        self.key = GuidedLinear(dim, text_guidance_dim)
        self.value = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(
        self, x: Tensor, text_guidance: Tensor | None, *, pooling: int = 2, chunks: Chunks = DEFAULT_CHUNKS
    ) -> Tensor:
        """Refine the maps of all classes.

        Args:
            x: (b, t, h, w, dim).
            text_guidance: (t, text_guidance_dim).
            pooling: positions averaged along each axis; must divide h and w.
            chunks: positions are independent of each other and may be computed a few at a time.

        Returns:
            (b, t, h, w, dim).
        """
        grid = tuple(x.shape[2:4])
        pooled = self._pooled(x, pooling)
        pooled = chunks.over(lambda part: self._refine(part, text_guidance), pooled, tokens=len(x) * x.shape[1])
        rows = grid[0] // pooling
        if pooling == 1:
            return x + rearrange(pooled, "b (h w) t c -> b t h w c", h=rows)
        # As a channels-last view, so that the resized maps come back in our layout without a copy.
        maps = rearrange(pooled, "b (h w) t c -> (b t) h w c", h=rows).contiguous().permute(0, 3, 1, 2)
        maps = F.interpolate(maps, size=grid, mode="bilinear", align_corners=True)
        return x + rearrange(maps, "(b t) c h w -> b t h w c", b=len(x))

    def mean_weights(self, x: Tensor, text_guidance: Tensor | None, *, pooling: int = 2) -> Tensor:
        """How much each class attends to each other one, mean over positions and heads.

        Args:
            x: (b, t, h, w, dim), what :meth:`forward` is given.
            text_guidance: as there.
            pooling: as there.

        Returns:
            float32 (b, t, t), rows are the query classes and sum to 1.
        """
        positions = self._pooled(x, pooling)
        total = 0.0
        for position in positions.split(8, dim=1):  # t x t numbers for every position and head
            query, key, _ = self._heads(position, text_guidance)
            with torch.autocast(x.device.type, enabled=False):  # as when attending
                weights = attention_weights(query, key, self.kind)
            total = total + reduce(weights, "b n h t s -> b t s", "sum")
        return total / (positions.shape[1] * self.heads)

    def _pooled(self, x: Tensor, pooling: int) -> Tensor:
        return reduce(x, "b t (h i) (w j) c -> b (h w) t c", "mean", i=pooling, j=pooling)

    def _heads(self, x: Tensor, text_guidance: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (b, n, heads, t, d) of positions (b, n, t, dim)."""
        normalised = self.norm1(x)
        # Q = W_q [x ; text guidance], K = W_k [x ; text guidance], V = W_v x
        projected = self.query(normalised, text_guidance), self.key(normalised, text_guidance), self.value(normalised)
        query, key, value = (rearrange(y, "b n t (h d) -> b n h t d", h=self.heads) for y in projected)
        return query.float(), key.float(), value.float()

    def _refine(self, x: Tensor, text_guidance: Tensor | None) -> Tensor:
        """(b, n, t, dim) -> (b, n, t, dim)."""
        query, key, value = self._heads(x, text_guidance)
        with torch.autocast(x.device.type, enabled=False):  # sums over hundreds of classes
            if self.kind == "linear":
                mixed = linear_attention(query, key, value)
            else:
                mixed = attention_weights(query, key, self.kind) @ value
        x = x + rearrange(mixed, "b n h t d -> b n t (h d)")
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))

"""Spatial aggregation: a pair of Swin blocks on the map of each class, guided by the appearance of the image."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.models.backbones.swin import shift_mask
from ovparts_lib.models.cost_aggregation.guided_linear import GuidedLinear


@lru_cache(maxsize=32)
def shifted_window_mask(grid: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """Swin's :func:`shift_mask` of a map (h, w) whose sides are multiples of the window, made once.

    Returns:
        float32 (windows, window^2, window^2), 0 or -100.
    """
    with torch.inference_mode(False):  # an ordinary tensor, so that training may use it too
        return shift_mask(*grid, window, device)


class WindowAttention(nn.Module):
    """Attention inside windows; appearance guidance enters queries and keys, not values. No relative position bias.

    Args:
        dim: width.
        guidance_dim: width of the guidance; 0 for none.
        heads: attention heads.
        window: side of a window.
        shift: how far windows are displaced; 0 for the first block of a pair.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.query = GuidedLinear(dim, guidance_dim)
        self.key = GuidedLinear(dim, guidance_dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Normalised (b, t, h, w, dim) and guidance (b, 1, h, w, guidance_dim) -> (b, t, h, w, dim)."""
        grid = tuple(x.shape[2:4])
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(2, 3))
            guidance = None if guidance is None else guidance.roll((-self.shift, -self.shift), dims=(2, 3))
            mask = shifted_window_mask(grid, self.window, x.device)
            mask = mask.repeat_interleave(self.heads, dim=0)[None]
        # Q = W_q [x ; guidance], K = W_k [x ; guidance], V = W_v x
        query, key, value = self.query(x, guidance), self.key(x, guidance), self.value(x)
        sides = {"i": self.window, "j": self.window}
        query, key, value = (
            rearrange(y, "b t (r i) (s j) (n d) -> (b t) (r s n) (i j) d", n=self.heads, **sides)
            for y in (query, key, value)
        )
        # attention among the positions of a window
        mixed = F.scaled_dot_product_attention(query, key, value, mask)
        rows = grid[0] // self.window
        pattern = "(b t) (r s n) (i j) d -> b t (r i) (s j) (n d)"
        mixed = self.out(rearrange(mixed, pattern, b=len(x), r=rows, n=self.heads, **sides))
        return mixed.roll((self.shift, self.shift), dims=(2, 3)) if self.shift else mixed


class SwinBlock(nn.Module):
    """Pre-norm block on maps (b, t, h, w, dim): window attention, then an MLP of four times the width with exact GELU.

    Args:
        dim: width.
        guidance_dim: width of the guidance; 0 for none.
        heads: attention heads.
        window: side of a window; both sides of the map must be multiples of it.
        shift: how far windows are displaced.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, guidance_dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Maps (b, t, h, w, dim) and guidance (b, 1, h, w, guidance_dim) -> (b, t, h, w, dim)."""
        x = x + self.attention(self.norm1(x), guidance)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SpatialAggregation(nn.Module):
    """Two Swin blocks, the second with windows displaced by half their side.

    Args:
        dim: width.
        guidance_dim: width of the appearance guidance; 0 for none.
        heads: attention heads.
        window: side of a window; both sides of the map must be multiples of it.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.guidance_norm = nn.LayerNorm(guidance_dim) if guidance_dim else None
        self.block1 = SwinBlock(dim, guidance_dim, heads, window, 0)
        self.block2 = SwinBlock(dim, guidance_dim, heads, window, window // 2)

    def normalised_guidance(self, guidance: Tensor | None) -> Tensor | None:
        """(b, h, w, guidance_dim) -> (b, 1, h, w, guidance_dim), to be computed once and given to :meth:`forward`."""
        return None if guidance is None else self.guidance_norm(guidance)[:, None]

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Classes are independent here.

        Args:
            x: (b, t, h, w, dim).
            guidance: from :meth:`normalised_guidance`.

        Returns:
            (b, t, h, w, dim).
        """
        return self.block2(self.block1(x, guidance), guidance)

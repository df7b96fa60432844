"""Cosine similarity of dense image features and prompted texts, and its embedding."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def cost_volume(features: Tensor, text: Tensor) -> Tensor:
    """Cosines of every position and every prompt, without temperature; float32 also under autocast.

    Args:
        features: (b, d, h, w), or (b, t, d, h, w) where each text is compared with features of its own.
        text: (t, p, d), p prompt templates for each of t texts; neither argument needs to be normalised.

    Returns:
        (b, t, p, h, w).
    """
    with torch.autocast(features.device.type, enabled=False):
        text = F.normalize(text.float(), dim=-1)
        features = features.float() if features.ndim == 5 else features.float()[:, None]
        image = F.normalize(rearrange(features, "b t d h w -> b t d (h w)"), dim=2)
        # C(i, n, p) = <F(i) / |F(i)|, T(n, p) / |T(n, p)|>
        return rearrange(text @ image, "b t p (h w) -> b t p h w", h=features.shape[-2])


def mean_cost(features: Tensor, text: Tensor) -> Tensor:
    """The cost volume's mean over prompts, from the mean text, since a cosine is linear in the normalised text.

    Args:
        features: as for :func:`cost_volume`.
        text: as for :func:`cost_volume`.

    Returns:
        (b, t, h, w), float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        mean = F.normalize(text.float(), dim=-1).mean(1)
        pattern = "b d h w, t d -> b t h w" if features.ndim == 4 else "b t d h w, t d -> b t h w"
        return torch.einsum(pattern, F.normalize(features.float(), dim=-3), mean)


class CostEmbedding(nn.Conv2d):
    """One convolution over the cost map of each text, prompts as channels.

    Args:
        prompts: p.
        dim: width of the embedding.
        kernel: side of the kernel, odd.
    """

    def __init__(self, prompts: int, dim: int, kernel: int = 7) -> None:
        super().__init__(prompts, dim, kernel, padding=kernel // 2)

    def forward(self, cost: Tensor) -> Tensor:
        """(b, t, p, h, w) -> (b, t, h, w, dim), float32 (it begins the residual stream)."""
        maps = super().forward(rearrange(cost, "b t p h w -> (b t) p h w"))
        return rearrange(maps.float(), "(b t) c h w -> b t h w c", b=len(cost)).contiguous()

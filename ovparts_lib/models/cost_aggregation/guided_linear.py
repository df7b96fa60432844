"""A linear layer over features joined with guidance that many of them share."""

import torch.nn.functional as F
from torch import Tensor, nn


class GuidedLinear(nn.Linear):
    """``Linear(concat(x, guidance))``, with the guidance's share computed once for all features that share it.

    Args:
        dim: width of x and of the result.
        guidance_dim: width of the guidance; 0 for none.
    """

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__(dim + guidance_dim, dim)

    def forward(self, x: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Features (..., dim) and a guidance (..., guidance_dim) that broadcasts against them -> (..., dim)."""
        if guidance is None:
            return super().forward(x)
        dim = x.shape[-1]
        return F.linear(x, self.weight[:, :dim], self.bias) + F.linear(guidance, self.weight[:, dim:])

"""Pictures joined into mosaics, so that a CLIP's patches learn to mean what is where they are.

A caption tells of a whole picture, and patches that are only ever averaged over one all come to say the same. In a
mosaic every cell has a caption of its own, and nothing was annotated.
Source: Wu et al., "CLIM: Contrastive Language-Image Mosaic for Region Representation", AAAI 2024.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def mosaics(pictures: Tensor, cells: int) -> Tensor:
    """Join pictures, row by row, into mosaics of their own size with ``cells`` x ``cells`` reduced pictures each.

    Args:
        pictures: uint8 (n * cells^2, 3, size, size); ``cells`` divides ``size``.
        cells: along a side.

    Returns:
        uint8 (n, 3, size, size).
    """
    reduced = F.avg_pool2d(pictures.float(), cells).round().to(pictures.dtype)
    return rearrange(reduced, "(n r c) k h w -> n k (r h) (c w)", r=cells, c=cells)


def cell_means(features: Tensor, cells: int) -> Tensor:
    """Mean features of the cells of mosaics: (n, d, gh, gw) -> (n * cells^2, d), in the order of :func:`mosaics`."""
    side = features.shape[-1] // cells
    return rearrange(F.avg_pool2d(features, side), "n d r c -> (n r c) d")

"""Sine position embedding of maps."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor


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

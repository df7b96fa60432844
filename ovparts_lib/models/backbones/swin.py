"""Swin Transformer as MaskFormer and its descendants use it: any image size, a norm for every stage's output.

timm's Swin pads after the cyclic shift, this one before it, which gives other windows where a map is no multiple of the
window; and it shifts maps that are smaller than a window as well. Parameters carry the names of the official release.
Source: Liu et al., "Swin Transformer", ICCV 2021, in the version for dense prediction.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from ovparts_lib.checked import hyper_parameters


@hyper_parameters
class SwinSize:
    """Hyper-parameters of a Swin Transformer.

    Attributes:
        width: channels of the first stage; every stage has twice as many as the one before.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: side of an attention window, in tokens.
        drop_path: stochastic depth of the last block, rising linearly from 0 (training only).
    """

    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 12
    drop_path: float = 0.3

    def __post_init__(self) -> None:
        for width, heads in zip(self.channels, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"{width} channels do not divide into {heads} heads")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))


SWIN_B = SwinSize()


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for every relative position."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_positions(window), persistent=False)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of windows (b * n, t, width); ``mask`` (n, t, t) is added to the logits of an image's windows."""
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = rearrange(bias, "asking asked heads -> 1 heads asking asked")
        query, key, value = rearrange(self.qkv(windows), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(len(windows) // len(mask), 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, bias.expand(len(windows), -1, -1, -1))
        return self.proj(rearrange(mixed, "b h t d -> b t (h d)"))


class SwinBlock(nn.Module):
    """Window attention, shifted by half a window if ``shift``, and an MLP, both pre-norm with residuals."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, maps: Tensor, mask: Tensor) -> Tensor:
        """Tokens (b, h, w, c) -> the same shape; ``mask`` is of :func:`shift_mask`, used if the block shifts."""
        height, width = maps.shape[1:3]
        window, shift = self.window, self.shift
        # zero-padding after the norm, then the cyclic shift
        padded = F.pad(self.norm1(maps), (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = padded.shape[1] // window, padded.shape[2] // window
        if shift:
            padded = padded.roll((-shift, -shift), dims=(1, 2))
        windows = rearrange(padded, "b (r i) (c j) d -> (b r c) (i j) d", i=window, j=window)
        windows = self.attn(windows, mask if shift else None)
        padded = rearrange(windows, "(b r c) (i j) d -> b (r i) (c j) d", r=rows, c=columns, i=window)
        if shift:
            padded = padded.roll((shift, shift), dims=(1, 2))
        maps = maps + self.drop_path(padded[:, :height, :width])
        return maps + self.drop_path(self.mlp(self.norm2(maps)))


class PatchMerging(nn.Module):
    """Halves a map: four neighbours become one token of twice the channels; odd sides are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, h, w, c) -> (b, ceil(h / 2), ceil(w / 2), 2 c)."""
        maps = F.pad(maps, (0, 0, 0, maps.shape[2] % 2, 0, maps.shape[1] % 2))
        # the four neighbours in the order of the release: column by column
        merged = rearrange(maps, "b (h i) (w j) c -> b h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(merged))


class Stage(nn.Module):
    """Blocks of one resolution, every second one shifted, and the merging that follows them."""

    def __init__(self, width: int, heads: int, window: int, drop_paths: list[float], *, last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, window, window // 2 if number % 2 else 0, drop_path)
            for number, drop_path in enumerate(drop_paths)
        )
        self.downsample = None if last else PatchMerging(width)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, h, w, c) -> (b, h, w, c), before merging."""
        mask = shift_mask(*maps.shape[1:3], self.window, maps.device)
        for block in self.blocks:
            maps = block(maps, mask)
        return maps


class PatchEmbedding(nn.Module):
    """Patches of 4 x 4 pixels as normalised tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, ceil(h / 4), ceil(w / 4), width)."""
        pixels = F.pad(pixels, (0, -pixels.shape[-1] % 4, 0, -pixels.shape[-2] % 4))
        return self.norm(rearrange(self.proj(pixels), "b c h w -> b h w c"))


class Swin(nn.Module):
    """Features of all stages at strides 4, 8, 16 and 32.

    Args:
        size: hyper-parameters.
    """

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        self.channels = size.channels
        rates = np.linspace(0, size.drop_path, sum(size.depths)).tolist()
        self.patch_embed = PatchEmbedding(size.width)
        self.layers = nn.ModuleList()
        for width, heads, depth in zip(size.channels, size.heads, size.depths, strict=True):
            last = width == size.channels[-1]
            self.layers.append(Stage(width, heads, size.window, rates[:depth], last=last))
            rates = rates[depth:]
        for number, width in enumerate(size.channels):
            self.add_module(f"norm{number}", nn.LayerNorm(width))
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps of normalised pixels (b, 3, h, w), each through its own norm: (b, channels[i], h / 4 / 2^i, …)."""
        maps, features = self.patch_embed(pixels), []
        for number, stage in enumerate(self.layers):
            maps = stage(maps)
            normed = self.get_submodule(f"norm{number}")(maps)
            features.append(rearrange(normed, "b h w c -> b c h w").contiguous())
            if stage.downsample is not None:
                maps = stage.downsample(maps)  # of the map before the norm
        return features


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """What keeps tokens of a shifted window apart that were not neighbours before the cyclic shift.

    Args:
        height: of the map before padding.
        width: likewise.
        window: side; the shift is half of it.
        device: where the result goes.

    Returns:
        float32 (windows, window^2, window^2): 0 within a region, -100 between regions: not minus infinity, for released
        weights were trained with what that lets through.
    """
    lines = []
    for length in (height + -height % window, width + -width % window):
        places = torch.arange(length, device=device)
        lines.append((places >= length - window).long() + (places >= length - window // 2).long())
    regions = 3 * lines[0][:, None] + lines[1]
    regions = rearrange(regions, "(r i) (c j) -> (r c) (i j)", i=window, j=window)
    return -100.0 * (regions[:, :, None] != regions[:, None, :]).float()


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for every pair of tokens of a window, int64 (window^2, window^2)."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    offsets = places[:, None] - places[None] + window - 1
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

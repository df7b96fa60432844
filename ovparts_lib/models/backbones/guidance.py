"""Image backbones that guide cost aggregation: ResNet-101, DINOv2, and a small one for the miniature.

Each gives three feature maps, coarse to fine, at the grid of the cost volume and at two and four times its resolution.
"""

from itertools import pairwise
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.backbones.resnet import STAGES, ResNet, ResNetSize

GuidanceKind = Literal["none", "resnet101", "dinov2_vits14", "small"]
DINOV2_OFFSET = 0.1


@hyper_parameters
class GuidanceSize:
    """Which backbone, and what it sees.

    Attributes:
        kind: ``none``, ``resnet101``, ``dinov2_vits14``, or ``small``: a small convolutional guidance
            backbone, new when a training begins.
        image_size: side of the square image the backbone is given.
        channels: widths of ``small``, coarse to fine.
        clip_layer: hidden state of the CLIP image tower that ``small`` joins to its own features; None for none.
    """

    kind: GuidanceKind = "resnet101"
    image_size: int = 384
    channels: tuple[int, int, int] = (64, 32, 16)
    clip_layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind == "dinov2_vits14" and self.image_size % 14:
            raise ValueError(f"DINOv2 has patches of 14 pixels; image_size {self.image_size} is not a multiple of it")
        if self.kind != "small" and self.clip_layer is not None:
            raise ValueError(f"only small guidance joins CLIP's features; {self.kind} takes no clip_layer")


class ResNetGuidance(ResNet):
    """ResNet-101 up to its third stage; statistics and affine parameters of all norms are constants."""

    def __init__(self) -> None:
        super().__init__(ResNetSize((3, 4, 23, 3)))
        del self.res5
        self.channels, self.stages = (1024, 512, 256), STAGES[:3]

    def forward(self, pixels: Tensor, grid: tuple[int, int], clip_tokens: Tensor | None = None) -> list[Tensor]:
        """Features at strides 16, 8 and 4.

        Args:
            pixels: (b, 3, h, w), normalised with ImageNet's statistics.
            grid: of the cost volume; must be a sixteenth of the pixels.
            clip_tokens: not used.

        Returns:
            (b, 1024, gh, gw), (b, 512, 2 gh, 2 gw), (b, 256, 4 gh, 4 gw).
        """
        features = super().forward(pixels)[::-1]
        if tuple(features[0].shape[-2:]) != tuple(grid):
            raise ValueError(f"ResNet features are {tuple(features[0].shape[-2:])}, the cost volume is {tuple(grid)}")
        return features


def resize_dinov2_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embedding for another number of patches, by DINOv2's own rule.

    Bicubic, without antialiasing, sampled at the scale ``(grid + 0.1) / stored``: positions follow from that factor,
    not from the ratio of sizes, as in its training. (timm resizes by size and antialiases: other values.)

    Args:
        table: (1, 1 + g * g, c), class token first.
        grid: patches wanted, (gh, gw).

    Returns:
        (1, 1 + gh * gw, c); ``table`` itself where the grid is already right.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if tuple(grid) == (side, side):
        return table
    patches = rearrange(table[:, 1:], "1 (h w) c -> 1 c h w", h=side).float()
    scale = tuple((length + DINOV2_OFFSET) / side for length in grid)
    resized = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False)
    if tuple(resized.shape[-2:]) != tuple(grid):
        raise ValueError(f"DINOv2's position embedding cannot be resized from {side} x {side} to {tuple(grid)}")
    return torch.cat([table[:, :1], rearrange(resized, "1 c h w -> 1 (h w) c").to(table.dtype)], dim=1)


class DinoGuidance(nn.Module):
    """The last patch tokens of DINOv2 ViT-S/14 (timm's modules), resized to the three resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.dinov2 = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
        self.channels = (self.dinov2.embed_dim,) * 3

    def patch_tokens(self, pixels: Tensor) -> Tensor:
        """Normalised patch tokens (b, c, h / 14, w / 14) of pixels (b, 3, h, w)."""
        vit = self.dinov2
        patches = vit.patch_embed.proj(pixels)
        grid = tuple(patches.shape[-2:])
        tokens = rearrange(patches, "b c h w -> b (h w) c")
        tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + resize_dinov2_positions(vit.pos_embed, grid)
        for block in vit.blocks:
            tokens = block(tokens)
        return rearrange(vit.norm(tokens)[:, 1:], "b (h w) c -> b c h w", h=grid[0])

    def forward(self, pixels: Tensor, grid: tuple[int, int], clip_tokens: Tensor | None = None) -> list[Tensor]:
        """The same features three times.

        Args:
            pixels: (b, 3, h, w), normalised with ImageNet's statistics, sides multiples of 14.
            grid: of the cost volume.
            clip_tokens: not used.

        Returns:
            (b, c, gh, gw), (b, c, 2 gh, 2 gw), (b, c, 4 gh, 4 gw): bilinear, ``align_corners=False``.
        """
        tokens = self.patch_tokens(pixels).float()
        sizes = [(grid[0] * factor, grid[1] * factor) for factor in (1, 2, 4)]
        return [F.interpolate(tokens, size=size, mode="bilinear", align_corners=False) for size in sizes]


class SmallGuidance(nn.Module):
    """A pyramid of three convolutions on the pixels, with CLIP's patch tokens joined at every resolution.

    Args:
        channels: widths of the convolutions, coarse to fine.
        clip_width: channels of the tokens that are joined; 0 for none.
    """

    def __init__(self, channels: tuple[int, int, int], clip_width: int = 0) -> None:
        super().__init__()
        widths = (3, *reversed(channels))
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(given, width, 3, padding=1), nn.GroupNorm(1, width), nn.ReLU())
            for given, width in pairwise(widths)
        )
        self.token_norm = nn.LayerNorm(clip_width) if clip_width else None
        self.channels = tuple(width + clip_width for width in channels)

    def forward(self, pixels: Tensor, grid: tuple[int, int], clip_tokens: Tensor | None = None) -> list[Tensor]:
        """Features of edges and colours, and CLIP's of the neighbourhood.

        Args:
            pixels: (b, 3, h, w), normalised; at least four times the grid.
            grid: of the cost volume.
            clip_tokens: (b, 1 + gh * gw, clip_width), a hidden state of the image tower; None if built without.

        Returns:
            (b, c, gh, gw), (b, c, 2 gh, 2 gw), (b, c, 4 gh, 4 gw).
        """
        sizes = [(grid[0] * factor, grid[1] * factor) for factor in (4, 2, 1)]
        maps, features = pixels, []
        for conv, size in zip(self.convs, sizes, strict=True):
            maps = conv(F.adaptive_avg_pool2d(maps, size))
            features.append(maps)
        if self.token_norm is not None:
            tokens = rearrange(self.token_norm(clip_tokens[:, 1:]), "b (h w) c -> b c h w", h=grid[0]).float()
            resized = [F.interpolate(tokens, size=size, mode="bilinear", align_corners=False) for size in sizes]
            features = [torch.cat(pair, dim=1) for pair in zip(features, resized, strict=True)]
        return features[::-1]


def build_guidance(size: GuidanceSize, clip_width: int) -> nn.Module | None:
    """The backbone of a size at random initialisation; None for ``none``.

    Its ``channels`` are the widths of its three maps, and it is called with pixels, the grid of the cost volume, and
    the hidden state ``clip_layer`` of CLIP's image tower, if the size names one.

    Args:
        size: which backbone.
        clip_width: width of CLIP's image tower.
    """
    if size.kind == "none":
        return None
    if size.kind == "resnet101":
        return ResNetGuidance()
    if size.kind == "small":
        return SmallGuidance(size.channels, 0 if size.clip_layer is None else clip_width)
    return DinoGuidance()

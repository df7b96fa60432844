"""Mask2Former's pixel decoder: deformable attention between three scales, then one step of a feature pyramid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.conv_norm import ConvNorm
from ovparts_lib.models.mask2former.deformable_attention import (
    DeformableAttention,
    Shapes,
    reference_points,
    split_levels,
)
from ovparts_lib.models.maskformer.pixel_decoder import xavier_like
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.models.maskformer.transformer_decoder import sine_position

LEVELS = 3


@hyper_parameters
class Mask2FormerSize(ProposalSize):
    """Hyper-parameters of a network of mask proposals with a deformable pixel decoder and a masked decoder.

    Attributes:
        encoder_layers: of the deformable encoder.
        encoder_hidden: width of its MLPs.
        points: that each of its heads samples on each scale.
    """

    layers: int = 10
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    points: int = 4


class EncoderLayer(nn.Module):
    """Deformable self-attention and an MLP, both with residuals and norms after them."""

    def __init__(self, size: Mask2FormerSize) -> None:
        super().__init__()
        width, hidden = size.width, size.encoder_hidden
        self.self_attn = DeformableAttention(width, size.heads, LEVELS, size.points)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        """Tokens (b, s, width) of all scales -> the same shape."""
        tokens = self.norm1(tokens + self.self_attn(tokens + position, reference, tokens, shapes))
        return self.norm2(tokens + self.linear2(self.linear1(tokens).relu()))


class DeformablePixelDecoder(nn.Module):
    """Maps at strides 32, 16 and 8 that have seen each other, and mask features at stride 4; always in float32.

    Args:
        size: hyper-parameters.
        channels: of the backbone's four maps, fine to coarse.
    """

    def __init__(self, size: Mask2FormerSize, channels: Sequence[int]) -> None:
        super().__init__()
        width, groups = size.width, size.groups
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(given, width, 1), nn.GroupNorm(groups, width)) for given in reversed(channels[1:])
        )
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.encoder_layers))
        self.adapter_1 = ConvNorm(channels[0], width, 1, nn.GroupNorm(groups, width))
        self.layer_1 = ConvNorm(width, width, 3, nn.GroupNorm(groups, width), relu=True)
        self.mask_features = nn.Conv2d(width, width, 1)
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.layers:
            for linear in (layer.linear1, layer.linear2):
                nn.init.xavier_uniform_(linear.weight)
        for projection, _ in self.input_proj:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for conv in (self.adapter_1, self.layer_1, self.mask_features):
            xavier_like(conv)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps for the decoder, coarse to fine, and mask features.

        Args:
            features: of the backbone, (b, channels[i], h, w) at strides 4, 8, 16, 32.

        Returns:
            Three maps (b, width, h, w) at strides 32, 16, 8; and (b, width, h, w) at stride 4.
        """
        with torch.autocast(features[0].device.type, enabled=False):
            finest, *coarser = (maps.float() for maps in features)
            # tokens of three scales, coarse to fine
            projected = [project(maps) for project, maps in zip(self.input_proj, reversed(coarser), strict=True)]
            shapes = [tuple(maps.shape[-2:]) for maps in projected]
            tokens = torch.cat([rearrange(maps, "b c h w -> b (h w) c") for maps in projected], dim=1)
            positions = [
                rearrange(sine_position(*shape, tokens.shape[-1], tokens.device), "c h w -> (h w) c") + level
                for shape, level in zip(shapes, self.level_embed, strict=True)
            ]
            position, reference = torch.cat(positions), reference_points(shapes, tokens.device)
            # deformable encoder
            for layer in self.layers:
                tokens = layer(tokens, position, reference, shapes)
            split = split_levels(rearrange(tokens, "b s c -> b c s"), shapes)
            maps = [level.unflatten(2, shape) for level, shape in zip(split, shapes, strict=True)]
            # one step of the pyramid
            lateral = self.adapter_1(finest)
            upsampled = F.interpolate(maps[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return maps, self.mask_features(self.layer_1(lateral + upsampled))

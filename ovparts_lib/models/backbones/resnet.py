"""ResNets with bottlenecks as detectron2 builds them: plain, or "c" with DeepLab's stem and multi-grid.

The parameters carry detectron2's names (``stem.conv1``, ``res2.0.shortcut``, …). Every norm is a constant.
Sources: He et al., "Deep Residual Learning", CVPR 2016; Chen et al., "Rethinking Atrous Convolution", 2017 (the grid).
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.conv_norm import ConvNorm

STAGES = ("res2", "res3", "res4", "res5")


@hyper_parameters
class ResNetSize:
    """Hyper-parameters of a ResNet.

    Attributes:
        blocks: bottlenecks of each stage, (3, 4, 6, 3) for ResNet-50 and (3, 4, 23, 3) for ResNet-101.
        width: channels inside the first stage's bottlenecks; a stage's output is four times as wide, and every stage
            twice as wide as the one before.
        stem: ``plain``, one 7 x 7 convolution; ``deeplab``, three of 3 x 3, twice as wide.
        multi_grid: dilations of the last stage's blocks.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    stem: Literal["plain", "deeplab"] = "plain"
    multi_grid: tuple[int, ...] = (1, 1, 1)

    def __post_init__(self) -> None:
        if len(self.blocks) != 4 or len(self.multi_grid) != self.blocks[-1]:
            raise ValueError(
                f"a ResNet has four stages and a dilation for each block of the last one; blocks are {self.blocks}, "
                f"multi_grid {self.multi_grid}"
            )

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2 to res5."""
        return tuple(4 * self.width * 2**stage for stage in range(4))


RESNET_50 = ResNetSize()
RESNET_101C = ResNetSize((3, 4, 23, 3), stem="deeplab", multi_grid=(1, 2, 4))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride), 1 x 1 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, channels: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        width = 4 * inner
        self.shortcut = None
        if channels != width or stride != 1:
            self.shortcut = _conv(channels, width, 1, stride=stride)
        self.conv1 = _conv(channels, inner, 1, relu=True)
        self.conv2 = _conv(inner, inner, 3, stride=stride, dilation=dilation, relu=True)
        self.conv3 = _conv(inner, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, channels, h, w) -> (b, 4 * inner, h / stride, w / stride)."""
        shortcut = maps if self.shortcut is None else self.shortcut(maps)
        return (self.conv3(self.conv2(self.conv1(maps))) + shortcut).relu_()


class Stem(nn.Module):
    """Convolution(s) of stride 2 and a max-pool of stride 2."""

    def __init__(self, size: ResNetSize) -> None:
        super().__init__()
        if size.stem == "plain":
            self.conv1 = _conv(3, size.width, 7, stride=2, relu=True)
            self.out_channels = size.width
        else:
            self.conv1 = _conv(3, size.width, 3, stride=2, relu=True)
            self.conv2 = _conv(size.width, size.width, 3, relu=True)
            self.conv3 = _conv(size.width, 2 * size.width, 3, relu=True)
            self.out_channels = 2 * size.width

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, out_channels, h / 4, w / 4)."""
        for conv in self.children():
            pixels = conv(pixels)
        return F.max_pool2d(pixels, 3, stride=2, padding=1)


class ResNet(nn.Module):
    """Features of four stages at strides 4, 8, 16 and 32.

    Args:
        size: hyper-parameters.
    """

    def __init__(self, size: ResNetSize) -> None:
        super().__init__()
        self.channels, self.stages = size.channels, STAGES
        self.stem = Stem(size)
        channels = self.stem.out_channels
        for stage, (name, width, count) in enumerate(zip(STAGES, size.channels, size.blocks, strict=True)):
            dilations = size.multi_grid if name == "res5" else (1,) * count
            stride = 1 if stage == 0 else 2
            setattr(self, name, _stage(channels, width // 4, stride, dilations))
            channels = width

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """res2 to res5 of normalised pixels (b, 3, h, w): (b, channels[i], h / 4 / 2^i, w / 4 / 2^i)."""
        maps, features = self.stem(pixels), []
        for name in self.stages:
            maps = getattr(self, name)(maps)
            features.append(maps)
        return features


def _stage(channels: int, inner: int, stride: int, dilations: Sequence[int]) -> nn.Sequential:
    first, *rest = dilations
    blocks = [Bottleneck(channels, inner, stride, first)]
    return nn.Sequential(*blocks, *(Bottleneck(4 * inner, inner, 1, dilation) for dilation in rest))


def _conv(
    channels: int, width: int, kernel: int, *, stride: int = 1, dilation: int = 1, relu: bool = False
) -> ConvNorm:
    norm = FrozenBatchNorm2d(width)
    conv = ConvNorm(channels, width, kernel, norm, stride=stride, dilation=dilation, relu=relu)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv

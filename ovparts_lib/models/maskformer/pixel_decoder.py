"""MaskFormer's pixel decoder: a feature pyramid that ends in mask features at stride 4."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.models.conv_norm import ConvNorm
from ovparts_lib.models.maskformer.size import ProposalSize


class PixelDecoder(nn.Module):
    """FPN from the coarsest map down, with GroupNorm; the lateral branches have no activation.

    Args:
        size: hyper-parameters.
        channels: of the backbone's maps, fine to coarse.
    """

    def __init__(self, size: ProposalSize, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels, width, groups = len(channels), size.width, size.groups
        for number, given in enumerate(channels, start=1):
            if number < self.levels:
                self.add_module(f"adapter_{number}", ConvNorm(given, width, 1, nn.GroupNorm(groups, width)))
            below = width if number < self.levels else given
            layer = ConvNorm(below, width, 3, nn.GroupNorm(groups, width), relu=True)
            self.add_module(f"layer_{number}", layer)
        self.mask_features = nn.Conv2d(width, width, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                xavier_like(module)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Mask features (b, width, h, w) at the size of the first of ``features``, which are fine to coarse."""
        maps = self.get_submodule(f"layer_{self.levels}")(features[-1])
        for number in range(self.levels - 1, 0, -1):
            lateral = self.get_submodule(f"adapter_{number}")(features[number - 1])
            upsampled = F.interpolate(maps, size=lateral.shape[-2:], mode="nearest")
            maps = self.get_submodule(f"layer_{number}")(lateral + upsampled)
        return self.mask_features(maps)


def xavier_like(conv: nn.Conv2d) -> None:
    """Caffe2's "Xavier" initialisation of a convolution: uniform with variance 1 / fan-in, bias 0."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)

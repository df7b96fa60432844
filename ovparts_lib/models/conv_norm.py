"""A convolution that carries its norm, as in detectron2: the norm's tensors are named after the convolution."""

from torch import Tensor, nn


class ConvNorm(nn.Conv2d):
    """Convolution without bias, then a norm, then a ReLU if ``relu``; padded so that stride 1 keeps the size.

    Args:
        channels: given.
        width: channels of the result.
        kernel: odd side of the kernel.
        norm: module for ``width`` channels.
        stride: of the convolution.
        dilation: of the convolution.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        norm: nn.Module,
        *,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = False,
    ) -> None:
        padding = kernel // 2 * dilation
        super().__init__(channels, width, kernel, stride, padding, dilation, bias=False)
        self.norm, self.relu = norm, relu

    def forward(self, maps: Tensor) -> Tensor:
        """(b, channels, h, w) -> (b, width, ceil(h / stride), ceil(w / stride))."""
        maps = self.norm(super().forward(maps))
        return maps.relu_() if self.relu else maps

"""From pictures of any size to the pixels an image tower takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovparts_lib.data.transforms import resize_image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def square_pixels(
    images: Sequence[Tensor],
    size: int,
    device: torch.device,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Squash each image to a square, scale to 0..1 and normalise.

    Args:
        images: uint8 (3, h, w) each, sizes may differ; channel 0 of the image is channel 0 of the network.
        size: side of the square.
        device: where the result goes.
        mean: per channel, subtracted.
        std: per channel, divided by.

    Returns:
        float32 (len(images), 3, size, size).

    Raises:
        ValueError: no image, or one that is not uint8 with three channels.
    """
    if not len(images):
        raise ValueError("there are no images")
    for number, image in enumerate(images):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"image {number} is {image.dtype} of shape {tuple(image.shape)}; wanted uint8 (3, height, width)"
            )
    squares = torch.stack([resize_image(image, (size, size)).to(device) for image in images])
    shift, scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    return (squares.float() / 255 - shift) / scale

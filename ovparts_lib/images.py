"""Pictures and label maps as pixels: what models and data both need to bring them to a form and size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovparts_lib.atomic import replacing

LabelResize = Literal["centre", "floor"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each colour, in units of 0..255."""
IMAGENET_STATISTICS: Statistics = ((123.675, 116.280, 103.530), (58.395, 57.120, 57.375))
CLIP_STATISTICS: Statistics = ((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.3231630))

# Pictures up to this size are read. Pillow's own limit of 179 megapixels refuses photographs of today's cameras; it is
# switched off, and every picture that is opened here is checked against this one instead.
MAX_PIXELS = 500_000_000
Image.MAX_IMAGE_PIXELS = None

SIXTEEN_BIT, WHITE_IS_ZERO = "sixteen bits a channel", "white is zero"
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_FOURTEEN_BIT = 16383  # the largest value of sensors and scanners that store 10, 12 or 14 bits in 16


def rgb_pixels(picture: Image.Image) -> np.ndarray:
    """A picture of any mode as 8-bit RGB, as it is looked at on white paper.

    16-bit greyscale is scaled by 1/257, so that 65535 is white; transparent pixels are laid over white, whatever colour
    is hidden under them.

    Args:
        picture: decoded; its first frame counts. ``info`` may say, with :data:`SIXTEEN_BIT`, that its file holds 16
            bits a channel, of which Pillow keeps 8 in colour, and with :data:`WHITE_IS_ZERO` that its greys are
            reversed, which Pillow does not undo in 16 bits.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the mode says nothing about what is white: 32-bit integers, floats, or 16 bits of which 14 or fewer
            are used. The message names the mode.
    """
    # Pillow before 11 reads 16-bit PNG files in mode I.
    if picture.mode in _SIXTEEN_BIT or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        values = np.array(picture).astype(np.int64)
        if picture.format != "PPM":  # which says what is white
            _refuse_unused_bits(picture.mode, int(values.max(initial=0)))
        values[values == picture.info.get("transparency", -1)] = 65535
        values = 65535 - values if picture.info.get(WHITE_IS_ZERO) else values
        return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floating-point numbers"
        raise ValueError(f"mode {picture.mode}: {kind}, of which it is not clear which value is white")
    if picture.info.get(SIXTEEN_BIT) and picture.mode in ("RGB", "RGBA"):
        _refuse_unused_bits(picture.mode, 256 * max(high for _, high in picture.getextrema()[:3]))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(paper, layer).convert("RGB"))
    return np.array(picture.convert("RGB"))


def _refuse_unused_bits(mode: str, largest: int) -> None:
    if 0 < largest <= _FOURTEEN_BIT:
        used = "16 bits of which 14 or fewer are used"
        raise ValueError(f"mode {mode} with no value over {largest}: {used}, so that it is not clear which is white")


def write_picture(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Write a picture or label map in the format of the path's ending, the whole file or none.

    Args:
        path: of the file.
        pixels: uint8 (H, W, 3), or uint8 or uint16 (H, W).
        **options: of Pillow's writer.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format=kind, **options)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Exactly ``PIL.Image.resize(..., BILINEAR)``: antialiased when shrinking, 8-bit fixed-point arithmetic.

    Args:
        image: uint8 (3, H, W).
        size: (height, width) wanted.

    Returns:
        uint8 (3, height, width), on the device of ``image``.
    """
    height, width = size
    if tuple(image.shape[-2:]) == (height, width):
        return image
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())
    pixels = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(image.device)


def resize_labels(
    labels: Tensor, size: tuple[int, int], rule: LabelResize = "centre", *, released_dtype: torch.dtype = torch.float64
) -> Tensor:
    """Nearest-neighbour resize of a label map of any integer type: the one place where labels are resampled.

    Args:
        labels: (H, W).
        size: (height, width) wanted.
        rule: ``centre``: the source pixel under the centre of the target pixel, as the picture is resized (what torch
            calls ``nearest-exact``, here in whole numbers and so without its rounding at pixel edges); ``floor``:
            source = floor(target · in / out), as the released code does it, which displaces labels by up to half a
            source pixel against the picture.
        released_dtype: type in which the released code computes the ``floor`` rule: its mappers hold float64 maps, its
            models float32 ones, and for some sizes (104 to 352, say) single rows land on the other side of a pixel
            edge. ``centre`` does not depend on it.

    Returns:
        (height, width), same type.
    """
    if rule not in ("centre", "floor"):
        raise ValueError(f"label_resize is 'centre' or 'floor', not {rule!r}")
    if rule == "floor":
        maps = labels.to(released_dtype)[None, None]
        return F.interpolate(maps, size=tuple(size), mode="nearest")[0, 0].to(labels.dtype)
    rows, columns = (
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for old, new in zip(labels.shape, size, strict=True)
    )
    return labels.index_select(1, columns).index_select(0, rows)


def shortest_edge_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Size with the short side at ``shortest``, or the long side at ``longest`` if it would exceed that; detectron2.

    No side is less than 1 pixel, however long and thin the picture.
    """
    scale = shortest / min(height, width)
    new_height, new_width = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(new_height, new_width) > longest:
        shrink = longest / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def square_pixels(images: Sequence[Tensor], size: int, device: torch.device) -> Tensor:
    """Squash each image to a square, scale to 0..1 and normalise with ImageNet's statistics.

    Args:
        images: uint8 (3, h, w) each, sizes may differ; channel 0 of the image is channel 0 of the network.
        size: side of the square.
        device: where the result goes.

    Returns:
        float32 (len(images), 3, size, size).

    Raises:
        ValueError: no image, or one that is not uint8 with three channels.
    """
    squares = torch.stack([resize_image(image, (size, size)).to(device) for image in checked_images(images)])
    shift, scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (squares.float() / 255 - shift) / scale


def normalise(pixels: Tensor, statistics: Statistics = IMAGENET_STATISTICS) -> Tensor:
    """``(pixels - mean) / std`` of pixels (…, 3, h, w) in 0..255, float32."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in statistics)
    return (pixels.float() - mean) / std


def checked_images(images: Sequence[Tensor]) -> Sequence[Tensor]:
    """The images, if they are what a system takes.

    Raises:
        ValueError: no image, or one that is not uint8 with three channels.
    """
    if not len(images):
        raise ValueError("there are no images")
    for number, image in enumerate(images):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise ValueError(f"image {number} is {image.dtype} {tuple(image.shape)}; wanted uint8 (3, height, width)")
    return images

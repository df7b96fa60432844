"""Training augmentation in torchvision v2 style, on the resize rules of :mod:`ovparts_lib.images`.

Every transform takes the nested structures torchvision's own do; pictures are ``tv_tensors.Image`` (uint8, (3, H, W)),
label maps ``tv_tensors.Mask`` ((H, W), any integer type). All draws come from torch's global generator.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from ovparts_lib.images import LabelResize, resize_image, resize_labels, shortest_edge_size

BRIGHTNESS = 32.0  # added to every channel
FACTORS = (0.5, 1.5)  # of contrast and saturation
HUE_STEPS = 18  # of 180 around the colour circle
Augmentation = Literal["applied", "discarded_as_released"]


class ResizeShortestEdge(v2.Transform):
    """Resize picture and labels so that the short side is one of ``shortest`` (drawn evenly) and the long side fits.

    Args:
        shortest: pixels of the short side, or several to draw from.
        longest: most pixels of the long side.
        label_resize: see :func:`resize_labels`.
    """

    def __init__(self, shortest: int | Sequence[int], longest: int, label_resize: LabelResize = "centre") -> None:
        super().__init__()
        self.shortest = (shortest,) if isinstance(shortest, int) else tuple(shortest)
        self.longest, self.label_resize = longest, label_resize

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size."""
        shortest = self.shortest[int(torch.randint(len(self.shortest), ()))]
        return {"size": shortest_edge_size(*_image_size(flat_inputs), shortest, self.longest)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize a picture or a label map; leave anything else."""
        if isinstance(inpt, tv_tensors.Image):
            return tv_tensors.Image(resize_image(inpt, params["size"]))
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.Mask(resize_labels(inpt, params["size"], self.label_resize))
        return inpt


class CropUpTo(v2.Transform):
    """Crop an evenly drawn square; a side that is shorter stays whole (detectron2's absolute crop).

    Args:
        size: side of the square in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the corner."""
        image_size = _image_size(flat_inputs)
        height, width = (min(side, self.size) for side in image_size)
        top = int(torch.randint(image_size[0] - height + 1, ()))
        left = int(torch.randint(image_size[1] - width + 1, ()))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop a picture or a label map; leave anything else."""
        return TF.crop(inpt, **params) if isinstance(inpt, tv_tensors.Image | tv_tensors.Mask) else inpt


class PadTo(v2.Transform):
    """Pad right and bottom to exactly size × size: pictures with grey 128, label maps with the ignore label.

    A side longer than ``size`` is cut at right or bottom, as the released code does (its pad amount goes negative).

    Args:
        size: side of the outcome in pixels.
        ignore_label: of the vocabulary that the label maps use.
    """

    def __init__(self, size: int, ignore_label: int) -> None:
        super().__init__()
        self.size, self.ignore_label = size, ignore_label

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad a picture or a label map; leave anything else."""
        if not isinstance(inpt, tv_tensors.Image | tv_tensors.Mask):
            return inpt
        fill = 128 if isinstance(inpt, tv_tensors.Image) else self.ignore_label
        kept = inpt.as_subclass(Tensor)[..., : self.size, : self.size]
        height, width = kept.shape[-2:]
        return tv_tensors.wrap(F.pad(kept, (0, self.size - width, 0, self.size - height), value=fill), like=inpt)


def squashed(image: tv_tensors.Image, side: int) -> tv_tensors.Image:
    """The picture as a square, aspect ratio not kept (CLIPSeg, 352 × 352)."""
    return tv_tensors.Image(resize_image(image, (side, side)))


def reversed_channels(image: tv_tensors.Image) -> tv_tensors.Image:
    """RGB to BGR: the order in which the released CLIPSeg and PartCLIPSeg configurations feed training pictures."""
    return tv_tensors.Image(image.flip(-3))


def training_transform(
    *,
    shortest_edge: int | Sequence[int] | None = 800,
    longest_edge: int = 1333,
    crop: int | None = None,
    photometric: bool = False,
    flip: float = 0.5,
    final_size: int | None = None,
    pad_size: int | None = None,
    ignore_label: int | None = None,
    label_resize: LabelResize = "centre",
    channel_order: Literal["rgb", "bgr"] = "rgb",
    augmentation: Augmentation = "applied",
) -> v2.Compose:
    """The augmentation of the published configurations, in their order.

    Args:
        shortest_edge: short side after the resize, or several to draw from; None: no resize.
        longest_edge: most pixels of the long side.
        crop: side of a random square crop after the resize.
        photometric: SSD colour jitter (CAT-Seg and ZSSeg+).
        flip: probability of a left-right flip.
        final_size: side of the square to which the picture alone is squashed, at the end; label maps keep their size
            (CLIPSeg: 352).
        pad_size: pad picture and labels to a square of this side, at the end (CAT-Seg: 384).
        ignore_label: of the training vocabulary; needed with ``pad_size``.
        label_resize: ``centre``, or ``floor`` as released.
        channel_order: ``rgb``, or ``bgr`` as the released CLIPSeg training was run.
        augmentation: ``applied``; or ``discarded_as_released``, what the released PartImageNet mappers come to: they
            compute resize, crop, colour jitter and flip and forget the outcome, so that training sees every picture at
            native size, and with ``pad_size`` the top left corner of the larger ones.

    Raises:
        ValueError: ``pad_size`` without ``ignore_label``.
    """
    if pad_size is not None and ignore_label is None:
        raise ValueError("pad_size needs ignore_label: give vocabulary.ignore_label of the training vocabulary")
    drawn = [
        shortest_edge and ResizeShortestEdge(shortest_edge, longest_edge, label_resize),
        crop and CropUpTo(crop),
        photometric and PhotometricDistortion(),
        v2.RandomHorizontalFlip(flip),
    ]
    fitted = [
        channel_order == "bgr" and v2.Lambda(reversed_channels, tv_tensors.Image),
        final_size and v2.Lambda(partial(squashed, side=final_size), tv_tensors.Image),
        pad_size and PadTo(pad_size, ignore_label),
    ]
    return v2.Compose([step for step in (*(drawn if augmentation == "applied" else ()), *fitted) if step])


def _image_size(flat_inputs: list[Any]) -> tuple[int, int]:
    image = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image))
    return int(image.shape[-2]), int(image.shape[-1])


class PhotometricDistortion(v2.Transform):
    """The colour jitter of SSD (Liu et al., ECCV 2016, section 2.2), with the ranges of the released configurations.

    Brightness, then contrast, saturation and hue with contrast first or last; each with probability one half.

    The outcome of each step is cut to 0..255 and to whole numbers. Saturation is the S of HSV. The released code
    converts through OpenCV's 8-bit HSV, whose rounding is not reproduced; this works in floating point.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw which steps are taken, with what strength; None leaves a step out."""
        return {
            "brightness": _maybe(_uniform(-BRIGHTNESS, BRIGHTNESS)),
            "contrast_first": bool(torch.rand(()) < 0.5),
            "contrast": _maybe(_uniform(*FACTORS)),
            "saturation": _maybe(_uniform(*FACTORS)),
            "hue": _maybe(int(torch.randint(-HUE_STEPS, HUE_STEPS + 1, ()))),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort a picture; leave anything else."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        steps = [("brightness", add_brightness), ("saturation", multiply_saturation), ("hue", turn_hue)]
        steps.insert(1 if params["contrast_first"] else 3, ("contrast", multiply_contrast))
        image = inpt.as_subclass(Tensor)
        for name, step in steps:
            image = image if params[name] is None else step(image, params[name])
        return tv_tensors.Image(image)


def add_brightness(image: Tensor, delta: float) -> Tensor:
    """uint8 image plus ``delta``, cut to 0..255 and to whole numbers."""
    return (image.float() + delta).clamp_(0, 255).to(torch.uint8)


def multiply_contrast(image: Tensor, factor: float) -> Tensor:
    """uint8 image times ``factor``: SSD's contrast has no mean to turn around, which torchvision calls brightness."""
    return TF.adjust_brightness(image, factor)


def multiply_saturation(image: Tensor, factor: float) -> Tensor:
    """The S of HSV times ``factor``, at most 1; H and V stay.

    With V the largest channel, every channel c is V − S · V · f(H), so scaling S by k scales V − c by k.

    Args:
        image: uint8 (3, H, W).
        factor: at least 0.

    Returns:
        uint8 (3, H, W).
    """
    pixels = image.float()
    value, chroma = pixels.amax(0, keepdim=True), pixels.amax(0, keepdim=True) - pixels.amin(0, keepdim=True)
    scale = torch.clamp(value / chroma.clamp(min=1), max=factor)  # S · scale stays at most 1
    return (value - scale * (value - pixels)).clamp_(0, 255).to(torch.uint8)


def turn_hue(image: Tensor, steps: int) -> Tensor:
    """uint8 image with its hue turned by ``steps`` of 180 around the colour circle."""
    return TF.adjust_hue(image, steps / 180)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _maybe(strength: float) -> float | None:
    return strength if torch.rand(()) < 0.5 else None

"""The colour jitter of SSD (Liu et al., ECCV 2016, section 2.2), with the ranges the released configurations use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

BRIGHTNESS = 32.0  # added to every channel
FACTORS = (0.5, 1.5)  # of contrast and saturation
HUE_STEPS = 18  # of 180 around the colour circle


class PhotometricDistortion(v2.Transform):
    """Brightness, then contrast, saturation and hue with contrast first or last; each with probability one half.

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
        image = inpt.as_subclass(Tensor)
        if params["brightness"] is not None:
            image = add_brightness(image, params["brightness"])
        if params["contrast"] is not None and params["contrast_first"]:
            image = multiply_contrast(image, params["contrast"])
        if params["saturation"] is not None:
            image = multiply_saturation(image, params["saturation"])
        if params["hue"] is not None:
            image = TF.adjust_hue(image, params["hue"] / 180)
        if params["contrast"] is not None and not params["contrast_first"]:
            image = multiply_contrast(image, params["contrast"])
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


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _maybe(strength: float) -> float | None:
    return strength if torch.rand(()) < 0.5 else None

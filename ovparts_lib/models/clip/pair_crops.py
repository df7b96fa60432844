"""Masked crops as CLIP is adapted on them: cut with a fill, transformed with their masks, normalised.

Source: the released training code of OVSeg, which SCAN's goes back to.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ovparts_lib.images import CLIP_STATISTICS, normalise
from ovparts_lib.models.clip.crops import mask_boxes

FILL = (124, 116, 103)  # ImageNet's mean, which the released transform looks for; not the CLIP mean of test time


def masked_crop(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tight box of a mask, bool (H, W), with ``FILL`` outside: uint8 (3, h, w), and the mask in it."""
    left, top, right, bottom = mask_boxes(mask[None])[0].tolist()
    mask = mask[top:bottom, left:right].cpu()
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    return torch.where(mask, image[:, top:bottom, left:right].cpu(), fill), mask


def pair_transform(side: int, *, train: bool) -> v2.Transform:
    """The released transforms of a crop, a PIL image (bicubic), and of its mask (nearest neighbour)."""
    bicubic = v2.InterpolationMode.BICUBIC
    if train:
        return v2.RandomResizedCrop(side, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3), interpolation=bicubic)
    return v2.Compose([v2.Resize(side, interpolation=bicubic), v2.CenterCrop(side)])


def mask_by_colour(crop: Tensor) -> Tensor:
    """Pixels of uint8 (3, h, w) that are not exactly of the fill's colour, bool (h, w)."""
    return (crop != torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)).any(0)


def transformed(transform: v2.Transform, crop: Image.Image, mask: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """A crop and its mask under the same random choice: float32 (3, s, s) as CLIP takes it, and (s, s)."""
    pixels, kept = transform(crop, tv_tensors.Mask(mask))
    return clip_pixels(v2.functional.pil_to_tensor(pixels)), kept.as_subclass(Tensor)


def clip_pixels(crop: Tensor) -> Tensor:
    """uint8 (3, h, w) as CLIP takes it, float32."""
    return normalise(crop, CLIP_STATISTICS)

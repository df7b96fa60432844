"""Inputs and targets of a batch: images padded to one size, label maps as one mask for each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.models.maskformer.matching import Segments


def segments_of(label_maps: Sequence[Tensor], size: tuple[int, int], *, ignore_label: int) -> list[Segments]:
    """One mask for each class that occurs in an image, classes ascending; none for an image without labelled pixels.

    Args:
        label_maps: int64 (H, W) each, ids of classes or ``ignore_label``.
        size: (height, width) of the network's input, to which masks are padded right and below.
        ignore_label: its pixels, and the padding, are in no mask.
    """
    results = []
    for labels in label_maps:
        class_ids = labels.unique()
        class_ids = class_ids[class_ids != ignore_label]
        masks = labels[None] == class_ids[:, None, None]
        below, right = size[0] - labels.shape[0], size[1] - labels.shape[1]
        results.append(Segments(class_ids, F.pad(masks, (0, right, 0, below))))
    return results


def joined_inputs(images: Sequence[Tensor], divisor: int) -> Tensor:
    """Images (3, h, w) of any sizes as one batch, padded with zeros right and below to a common multiple."""
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    height, width = height + -height % divisor, width + -width % divisor
    return torch.stack([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])

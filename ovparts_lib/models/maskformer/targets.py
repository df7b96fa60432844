"""Inputs and targets of a batch: images padded to one size, label maps as one mask for each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.models.maskformer.matching import Segments


def segments_of(
    label_maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    count: int,
    ignore_label: int,
    image_ids: Sequence[str] | None = None,
) -> list[Segments]:
    """One mask for each class that occurs in an image, classes ascending; none for an image without labelled pixels.

    Args:
        label_maps: int64 (H, W) each, ids 0 to ``count - 1`` or ``ignore_label``.
        size: (height, width) of the network's input, to which masks are padded right and below.
        count: number of classes.
        ignore_label: of the vocabulary. Its pixels, and the padding, are in no mask.
        image_ids: names for messages.

    Raises:
        ValueError: a label is neither a class nor the ignore label; the message names the image.
    """
    results = []
    for number, labels in enumerate(label_maps):
        class_ids = labels.unique().long()  # loaders hand over the small type, which would index as a mask
        class_ids = class_ids[class_ids != ignore_label]
        wrong = class_ids[(class_ids < 0) | (class_ids >= count)]
        if len(wrong):
            name = f"image {image_ids[number]!r}" if image_ids else f"image {number} of the batch"
            raise ValueError(
                f"the label map of {name} holds label {int(wrong[0])}; the vocabulary has classes 0 to {count - 1} "
                f"and ignore label {ignore_label}: remap the labels to it first"
            )
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

"""Inputs and targets of a batch, Hungarian matching of predicted masks to the segments of an image, and its costs.

Every cost is a matrix (queries, targets); smaller is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

FOCAL_ALPHA = 0.25


@dataclass
class Segments:
    """What one image should be divided into.

    Attributes:
        class_ids: int64 (t,), channels of the class logits.
        masks: bool (t, h, w), at the size of the network's input. Pixels in no mask count as negative for every mask.
    """

    class_ids: Tensor
    masks: Tensor


Match = tuple[Tensor, Tensor]  # int64 (m,), (m,): queries, ascending, and the target of each


@torch.no_grad()
def hungarian(cost: Tensor) -> Match:
    """The assignment of least total cost; every target gets a query of its own as long as there are enough.

    Args:
        cost: (queries, targets). NaN and infinity count as very large: a diverged loss is the training's to report.
    """
    rows, columns = linear_sum_assignment(np.nan_to_num(cost.float().cpu().numpy(), nan=1e9, posinf=1e9, neginf=-1e9))
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)


def class_cost(class_logits: Tensor, class_ids: Tensor) -> Tensor:
    """Minus the probability of each target's class: (q, k), (t,) -> (q, t)."""
    return -class_logits.float().softmax(-1)[:, class_ids]


def focal_cost(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (gamma 2) of every pair, mean over pixels: (q, p), (t, p) in 0..1 -> (q, t)."""
    logits, targets = mask_logits.float(), targets.float()
    probability = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** 2 * F.softplus(-logits)
    negative = (1 - FOCAL_ALPHA) * probability**2 * F.softplus(logits)
    return (positive @ targets.T + negative @ (1 - targets).T) / logits.shape[1]


def cross_entropy_cost(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross-entropy of every pair, mean over pixels: (q, p), (t, p) in 0..1 -> (q, t)."""
    logits, targets = mask_logits.float(), targets.float()
    return (F.softplus(-logits) @ targets.T + F.softplus(logits) @ (1 - targets).T) / logits.shape[1]


def dice_cost(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of every pair, smoothed by 1: (q, p), (t, p) in 0..1 -> (q, t)."""
    probability, targets = mask_logits.float().sigmoid(), targets.float()
    total = probability.sum(1)[:, None] + targets.sum(1)
    return 1 - (2 * probability @ targets.T + 1) / (total + 1)


@torch.no_grad()
def match_maskformer(
    class_logits: Tensor, mask_logits: Tensor, segments: Segments, *, mask_weight: float = 20.0
) -> Match:
    """MaskFormer's matching of one image: ``mask_weight`` x focal, class and dice costs on all pixels of the masks.

    Args:
        class_logits: (q, classes + 1).
        mask_logits: (q, h, w).
        segments: of the image; their masks are reduced to h x w by nearest neighbour.
        mask_weight: of the focal cost.
    """
    if not len(segments.class_ids):
        return (segments.class_ids.new_empty(0),) * 2
    targets = F.interpolate(segments.masks[None].float(), size=mask_logits.shape[-2:], mode="nearest")[0].flatten(1)
    logits = mask_logits.flatten(1)
    cost = mask_weight * focal_cost(logits, targets) + class_cost(class_logits, segments.class_ids)
    return hungarian(cost + dice_cost(logits, targets))


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

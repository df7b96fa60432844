"""Training losses of PartCATSeg: where parts, objects and object-specific parts are, and that their costs agree.

Source: Choi et al., "Fine-Grained Image-Text Correspondence with Cost Aggregation for Open-Vocabulary Part
Segmentation", CVPR 2025, as the code released with it computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BACKGROUND_WEIGHT = 0.05
NO_LABEL = -1
Divergence = Literal["jensen_shannon", "symmetric_kl"]
# Channels that are enlarged to label size at once; only memory depends on it.
_CHANNELS_AT_ONCE = 8
_EPSILON = 1e-10


@dataclass
class PartTargets:
    """Labels of a batch.

    Attributes:
        parts: int64 (b, h, w), index of the object-specific part, ``NO_LABEL`` where there is none.
        objects: int64 (b, h, w), index among the objects that have parts, ``NO_LABEL`` where there is none: unlabelled
            pixels, and objects without parts or outside the training vocabulary. All of these count as background.
    """

    parts: Tensor
    objects: Tensor


def segmentation_losses(
    generic_logits: Tensor,
    specific_logits: Tensor,
    targets: PartTargets,
    part_to_generic: Sequence[int],
    generic_count: int,
    *,
    recompute: bool = False,
) -> dict[str, Tensor]:
    """Binary cross-entropies of both stages.

    Every mean is over the pixels named below and all channels of its term; the background's channel weighs
    ``BACKGROUND_WEIGHT``, which is not in the denominator. A mean over no pixel is 0.

    - ``loss_specific_part``: object-specific parts and background, at pixels with a part label.
    - ``loss_specific_background``: the same channels, at background pixels; 0 if the batch shows no object at all.
    - ``loss_part``: generic parts, at pixels with a part label.
    - ``loss_object``: objects and background, at all pixels.

    Args:
        generic_logits: (b, g + o + 1, h0, w0), generic parts, objects, background; h0, w0 span the labels.
        specific_logits: (b, n + 1, h0, w0), object-specific parts, background.
        targets: labels; logits are enlarged bilinearly to their size.
        part_to_generic: for each object-specific part, its generic part.
        generic_count: g.
        recompute: keep nothing of the enlarged logits for the backward pass, but compute them again.

    Returns:
        Scalars, float32.
    """
    parts, objects = targets.parts, targets.objects
    labelled, background = parts != NO_LABEL, objects == NO_LABEL
    specific_count, object_count = specific_logits.shape[1], generic_logits.shape[1] - generic_count
    table = torch.tensor([*part_to_generic, NO_LABEL], device=parts.device)  # NO_LABEL indexes the last entry
    backdrop = background.long() - 1  # 0 at background pixels, NO_LABEL elsewhere
    no_background = torch.ones(generic_count, device=parts.device)

    def pixel_loss(logits: Tensor, positives: Sequence[Tensor], weights: Tensor) -> Tensor:
        return summed_cross_entropy(logits, positives, weights, recompute=recompute)

    # A pixel with a part but without an object is positive in both channels, as released.
    both = [parts, torch.where(background, backdrop + specific_count - 1, NO_LABEL)]
    specific = pixel_loss(specific_logits, both, background_weights(specific_count, parts.device)) / specific_count
    generic = pixel_loss(generic_logits[:, :generic_count], [table[parts]], no_background) / generic_count
    positive = objects.masked_fill(background, object_count - 1)
    weights = background_weights(object_count, parts.device)
    of_objects = pixel_loss(generic_logits[:, generic_count:], [positive], weights) / object_count
    any_object = (~background).any()
    return {
        "loss_specific_part": masked_mean(specific, labelled),
        "loss_specific_background": masked_mean(specific, background & any_object),
        "loss_part": masked_mean(generic, labelled),
        "loss_object": of_objects.mean(),
    }


def background_weights(count: int, device: torch.device) -> Tensor:
    """Weights of channels, (count,): 1, and ``BACKGROUND_WEIGHT`` for the last."""
    weights = torch.ones(count, device=device)
    weights[-1] = BACKGROUND_WEIGHT
    return weights


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values under a mask of the same shape; 0, with a gradient of 0, where the mask is empty."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def summed_cross_entropy(
    logits: Tensor, positives: Sequence[Tensor], weights: Tensor, *, recompute: bool = False
) -> Tensor:
    """Weighted binary cross-entropy summed over channels, per pixel of the labels, in float32.

    Args:
        logits: (b, c, h0, w0), enlarged bilinearly to the labels' size, a few channels at a time.
        positives: int64 maps (b, h, w); each names one positive channel per pixel, or ``NO_LABEL`` for none.
        weights: (c,), factor of each channel's terms.
        recompute: do the enlarging again in the backward pass instead of keeping it.

    Returns:
        (b, h, w).
    """
    size = tuple(positives[0].shape[-2:])

    def chunk_loss(chunk: Tensor, first: int) -> Tensor:
        with torch.autocast(chunk.device.type, enabled=False):
            full = F.interpolate(chunk.float(), size=size, mode="bilinear", align_corners=False)
            channels = torch.arange(first, first + chunk.shape[1], device=chunk.device).view(-1, 1, 1)
            positive = torch.zeros_like(full, dtype=torch.bool)
            for labels in positives:
                positive |= labels.unsqueeze(1) == channels
            # -log sigmoid(z) = softplus(-z) where positive, -log(1 - sigmoid(z)) = softplus(z) elsewhere
            terms = F.softplus(torch.where(positive, -full, full))
            return torch.einsum("bchw,c->bhw", terms, weights[first : first + chunk.shape[1]].float())

    total = torch.zeros(positives[0].shape, device=logits.device)
    for first in range(0, logits.shape[1], _CHANNELS_AT_ONCE):
        chunk = logits[:, first : first + _CHANNELS_AT_ONCE]
        if recompute and torch.is_grad_enabled():
            total = total + checkpoint(chunk_loss, chunk, first, use_reentrant=False)
        else:
            total = total + chunk_loss(chunk, first)
    return total


def compositional_loss(
    object_cost: Tensor, specific_cost: Tensor, part_to_object: Sequence[int], divergence: Divergence = "jensen_shannon"
) -> Tensor:
    """How far the costs of objects are from the costs of their parts together, as distributions over objects.

    Both costs become distributions over their classes by a softmax without temperature; a part's share counts for its
    object, the background's for the background.

    Args:
        object_cost: (b, o + 1, h, w), cosines of objects and background, mean over prompts.
        specific_cost: (b, n + 1, h, w), cosines of object-specific parts and background, mean over prompts.
        part_to_object: for each object-specific part, its object, 0..o-1.
        divergence: ``jensen_shannon``, as the released code computes it; ``symmetric_kl``, the mean of both
            Kullback-Leibler divergences, as the paper writes it under the same name.

    Returns:
        Mean over images and positions, scalar, float32.
    """
    with torch.autocast(object_cost.device.type, enabled=False):
        of_objects = object_cost.float().softmax(1) + _EPSILON
        of_parts = specific_cost.float().softmax(1) + _EPSILON
        owners = torch.tensor([*part_to_object, object_cost.shape[1] - 1], device=object_cost.device)
        summed = torch.zeros_like(of_objects).index_add(1, owners, of_parts)
        return distribution_distance(summed + _EPSILON, of_objects + _EPSILON, divergence)


def distribution_distance(first: Tensor, second: Tensor, divergence: Divergence) -> Tensor:
    """Mean divergence of distributions along axis 1, (b, c, h, w) each, in nats."""
    first, second = (rearrange(values, "b c h w -> (b h w) c") for values in (first, second))
    if divergence == "symmetric_kl":
        return ((first - second) * (first.log() - second.log())).sum(1).mean() / 2
    middle = ((first + second) / 2).log()
    to_middle = first * (first.log() - middle) + second * (second.log() - middle)
    return to_middle.sum(1).mean() / 2

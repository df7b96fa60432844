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
# Values that are enlarged to label size at once; only memory depends on it.
_VALUES_AT_ONCE = 2**22
_EPSILON = 1e-10


@dataclass
class PartTargets:
    """Labels of one image.

    Attributes:
        parts: int64 (h, w), index of the object-specific part, ``NO_LABEL`` where there is none.
        objects: int64 (h, w), index among the objects that have parts, ``NO_LABEL`` where there is none: unlabelled
            pixels, and objects without parts or outside the training vocabulary. All of these count as background.
        covered_size: (height, width) that the logits span in pixels of the label maps, at least their size; more where
            images were padded at the right and below.
    """

    parts: Tensor
    objects: Tensor
    covered_size: tuple[int, int]


def segmentation_losses(
    generic_logits: Tensor,
    specific_logits: Tensor,
    targets: Sequence[PartTargets],
    part_to_generic: Sequence[int],
    generic_count: int,
    *,
    recompute: bool = False,
) -> dict[str, Tensor]:
    """Binary cross-entropies of both stages.

    Every mean is over the pixels of the batch named below and all channels of its term; the background's channel weighs
    ``BACKGROUND_WEIGHT``, which is not in the denominator. A mean over no pixel is 0.

    - ``loss_specific_part``: object-specific parts and background, at pixels with a part label.
    - ``loss_specific_background``: the same channels, at background pixels; 0 if the batch shows no object at all.
    - ``loss_part``: generic parts, at pixels with a part label.
    - ``loss_object``: objects and background, at all pixels.

    Args:
        generic_logits: (b, g + o + 1, h0, w0), generic parts, objects, background.
        specific_logits: (b, n + 1, h0, w0), object-specific parts, background.
        targets: labels of the b images, whose sizes may differ; logits are enlarged bilinearly to each.
        part_to_generic: for each object-specific part, its generic part.
        generic_count: g.
        recompute: keep nothing of the enlarged logits for the backward pass, but compute them again.

    Returns:
        Scalars, float32.
    """
    device = specific_logits.device
    specific_count, object_count = specific_logits.shape[1], generic_logits.shape[1] - generic_count
    table = torch.tensor([*part_to_generic, NO_LABEL], device=device)  # NO_LABEL indexes the last entry
    specific_weights, object_weights = (background_weights(count, device) for count in (specific_count, object_count))
    part_weights = torch.ones(generic_count, device=device)
    specific, generic, of_objects = [], [], []
    for number, labels in enumerate(targets):
        background = labels.objects == NO_LABEL
        # A pixel with a part but without an object is positive in both channels, as released.
        both = [labels.parts, torch.where(background, specific_count - 1, NO_LABEL)]
        terms = (
            (specific, specific_logits, both, specific_weights),
            (generic, generic_logits[:, :generic_count], [table[labels.parts]], part_weights),
            (
                of_objects,
                generic_logits[:, generic_count:],
                [labels.objects.masked_fill(background, object_count - 1)],
                object_weights,
            ),
        )
        for losses, logits, positives, weights in terms:
            summed = summed_cross_entropy(logits[number], positives, weights, labels.covered_size, recompute=recompute)
            losses.append(summed.flatten() / len(weights))
    labelled = torch.cat([(labels.parts != NO_LABEL).flatten() for labels in targets])
    background = torch.cat([(labels.objects == NO_LABEL).flatten() for labels in targets])
    any_object = (~background).any()
    return {
        "loss_specific_part": masked_mean(torch.cat(specific), labelled),
        "loss_specific_background": masked_mean(torch.cat(specific), background & any_object),
        "loss_part": masked_mean(torch.cat(generic), labelled),
        "loss_object": torch.cat(of_objects).mean(),
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
    logits: Tensor,
    positives: Sequence[Tensor],
    weights: Tensor,
    covered_size: tuple[int, int],
    *,
    recompute: bool = False,
) -> Tensor:
    """Weighted binary cross-entropy summed over channels, per pixel of the labels of one image, in float32.

    Args:
        logits: (c, h0, w0), enlarged bilinearly to the covered size and cut to the labels, a few channels at a time.
        positives: int64 maps (h, w); each names one positive channel per pixel, or ``NO_LABEL`` for none.
        weights: (c,), factor of each channel's terms.
        covered_size: (height, width) in pixels of the labels that the logits span.
        recompute: do the enlarging again in the backward pass instead of keeping it.

    Returns:
        (h, w).
    """
    height, width = positives[0].shape

    def chunk_loss(chunk: Tensor, first: int) -> Tensor:
        with torch.autocast(chunk.device.type, enabled=False):
            full = F.interpolate(chunk[None].float(), size=covered_size, mode="bilinear", align_corners=False)[0]
            full = full[:, :height, :width]
            channels = torch.arange(first, first + len(chunk), device=chunk.device).view(-1, 1, 1)
            positive = torch.zeros_like(full, dtype=torch.bool)
            for labels in positives:
                positive |= labels == channels
            # -log sigmoid(z) = softplus(-z) where positive, -log(1 - sigmoid(z)) = softplus(z) elsewhere
            terms = F.softplus(torch.where(positive, -full, full))
            return torch.einsum("chw,c->hw", terms, weights[first : first + len(chunk)].float())

    total = torch.zeros((height, width), device=logits.device)
    step = max(1, _VALUES_AT_ONCE // (covered_size[0] * covered_size[1]))
    for first in range(0, len(logits), step):
        chunk = logits[first : first + step]
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

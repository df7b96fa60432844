"""Training losses of PartCATSeg: where parts, objects and object-specific parts are, and that their costs agree.

Source: Choi et al., "Fine-Grained Image-Text Correspondence with Cost Aggregation for Open-Vocabulary Part
Segmentation", CVPR 2025, as the code released with it computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ovparts_lib.models.cost_aggregation import Chunks
from ovparts_lib.systems.partcatseg.options import Divergence

NO_LABEL = -1
_PIXELS_AT_ONCE = 1 << 22
_EPSILON = 1e-10


@dataclass
class PartTargets:
    """Labels of one image, at the size the logits are enlarged to.

    Attributes:
        parts: int64 (h, w), index among the object-specific parts, ``NO_LABEL`` where there is none.
        generic: int64 (h, w), index among the generic parts, ``NO_LABEL`` likewise.
        objects: int64 (h, w), index among the objects that have parts, ``NO_LABEL`` where there is none: unlabelled
            pixels, and objects without parts or outside the training vocabulary. All of these count as background.
    """

    parts: Tensor
    generic: Tensor
    objects: Tensor


def segmentation_losses(
    generic_logits: Tensor,
    specific_logits: Tensor,
    targets: Sequence[PartTargets],
    generic_count: int,
    background_weight: float,
    *,
    recompute: bool = False,
) -> dict[str, Tensor]:
    """Binary cross-entropies of both stages.

    Every mean is over the pixels of the batch named below and all channels of its term; the background's channel has a
    weight, which is not in the denominator. A mean over no pixel is 0.

    - ``loss_specific_part`` (L_obj-part): object-specific parts and background, at pixels with a part label.
    - ``loss_specific_background`` (its share of the background): the same channels, at background pixels; 0 if the
      batch shows no object at all.
    - ``loss_part`` (L_part): generic parts, at pixels with a part label.
    - ``loss_object`` (L_obj): objects and background, at all pixels.

    Args:
        generic_logits: (b, g + o + 1, h0, w0), generic parts, objects, background.
        specific_logits: (b, n + 1, h0, w0), object-specific parts, background.
        targets: labels of the b images, whose sizes may differ; logits are enlarged bilinearly to each.
        generic_count: g.
        background_weight: factor of the background channels' terms, positive and negative; the others weigh 1.
        recompute: keep nothing of the enlarged logits for the backward pass, but enlarge them again.

    Returns:
        Scalars, float32.
    """
    specific_count, object_count = specific_logits.shape[1], generic_logits.shape[1] - generic_count
    sums = {"specific": 0.0, "part": 0.0, "object": 0.0}
    for number, labels in enumerate(targets):
        labelled, background = labels.parts != NO_LABEL, labels.objects == NO_LABEL
        # A pixel with a part but without an object is positive in both channels, as released.
        both = [labels.parts, torch.where(background, specific_count - 1, NO_LABEL)]
        shown = [labels.objects.masked_fill(background, object_count - 1)]
        part_logits, object_logits = generic_logits[number].split((generic_count, object_count))
        everywhere = torch.ones_like(labelled)
        for name, logits, positives, pixels in (
            ("specific", specific_logits[number], both, torch.stack([labelled, background])),
            ("part", part_logits, [labels.generic], labelled[None]),
            ("object", object_logits, shown, everywhere[None]),
        ):
            sums[name] = sums[name] + summed_cross_entropy(logits, positives, pixels, recompute=recompute)
    labelled = sum((labels.parts != NO_LABEL).sum() for labels in targets)
    background = sum((labels.objects == NO_LABEL).sum() for labels in targets)
    pixels = sum(labels.objects.numel() for labels in targets)
    for name in ("specific", "object"):
        weights = torch.ones(len(sums[name]), 1, device=specific_logits.device)
        weights[-1] = background_weight
        sums[name] = sums[name] * weights
    channel_means = {name: values.mean(0) for name, values in sums.items()}
    return {
        "loss_specific_part": channel_means["specific"][0] / labelled.clamp(min=1),
        "loss_specific_background": channel_means["specific"][1] / background.clamp(min=1) * (background < pixels),
        "loss_part": channel_means["part"][0] / labelled.clamp(min=1),
        "loss_object": channel_means["object"][0] / pixels,
    }


def summed_cross_entropy(
    logits: Tensor, positives: Sequence[Tensor], pixels: Tensor, *, recompute: bool = False
) -> Tensor:
    """Binary cross-entropy of one image, summed over several sets of pixels, in float32.

    Args:
        logits: (c, h0, w0), enlarged bilinearly to the labels, a few channels at a time.
        positives: int64 maps (h, w); each names one positive channel per pixel, or ``NO_LABEL`` for none.
        pixels: bool (k, h, w), which pixels belong to each of k sums.
        recompute: enlarge again in the backward pass instead of keeping the result.

    Returns:
        (c, k).
    """
    size = tuple(pixels.shape[-2:])
    flat = rearrange(pixels, "k h w -> (h w) k").float()

    def sums(maps: Tensor, channels: Tensor) -> Tensor:
        full = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]
        channels = channels.view(-1, 1, 1)
        positive = torch.zeros_like(full, dtype=torch.bool)
        for labels in positives:
            positive |= labels == channels
        # -log sigmoid(z) = softplus(-z) where positive, -log(1 - sigmoid(z)) = softplus(z) elsewhere
        terms = F.softplus(torch.where(positive, -full, full))
        return (rearrange(terms, "c h w -> c (h w)") @ flat)[None]

    with torch.autocast(logits.device.type, enabled=False):
        channels = torch.arange(len(logits), device=logits.device)
        chunks = Chunks(_PIXELS_AT_ONCE, recompute)
        return chunks.over(sums, logits[None].float(), channels[None], tokens=size[0] * size[1])[0]


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
        # P over objects and background, from the object-level cost; Q over object-specific parts and background
        of_objects = object_cost.float().softmax(1) + _EPSILON
        of_parts = specific_cost.float().softmax(1) + _EPSILON
        # Q'(o), the sum of Q over the parts of object o: together they should have the share that the object has
        owners = torch.tensor([*part_to_object, object_cost.shape[1] - 1], device=object_cost.device)
        summed = torch.zeros_like(of_objects).index_add(1, owners, of_parts)
        return distribution_distance(summed + _EPSILON, of_objects + _EPSILON, divergence)


def distribution_distance(first: Tensor, second: Tensor, divergence: Divergence) -> Tensor:
    """Mean divergence of distributions along axis 1, (b, c, h, w) each, over images and positions; scalar, nats."""
    first, second = (rearrange(values, "b c h w -> (b h w) c") for values in (first, second))
    if divergence == "symmetric_kl":  # (KL(P || Q) + KL(Q || P)) / 2, the paper's
        return ((first - second) * (first.log() - second.log())).sum(1).mean() / 2
    # Jensen-Shannon: (KL(P || M) + KL(Q || M)) / 2 with M = (P + Q) / 2
    middle = ((first + second) / 2).log()
    to_middle = first * (first.log() - middle) + second * (second.log() - middle)
    return to_middle.sum(1).mean() / 2

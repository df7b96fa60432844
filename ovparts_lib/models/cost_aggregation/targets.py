"""Label maps of a training batch for cost-aggregation systems, and the loss on them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.models.cost_aggregation import Chunks

_PIXELS_AT_ONCE = 1 << 22


def covered_labels(
    label_maps: Sequence[Tensor],
    images: Sequence[Tensor],
    covered: Sequence[tuple[float, float]],
    count: int,
) -> list[Tensor]:
    """Label maps at their own size, with padding as unlabelled pixels.

    Args:
        label_maps: int64 (H, W) each, ids 0 to ``count - 1``, ``count`` where nothing is labelled.
        images: the pictures they belong to, (3, h, w).
        covered: what each picture's squares span, in its pixels; see ``inputs.SquareInputs``.
        count: number of classes.

    Returns:
        int64 (H', W') each, padded right and below as the pictures were.
    """
    results = []
    for labels, image, span in zip(label_maps, images, covered, strict=True):
        below, right = (
            round(length * whole / side) - length
            for length, whole, side in zip(labels.shape, span, image.shape[-2:], strict=True)
        )
        results.append(F.pad(labels, (0, right, 0, below), value=count))
    return results


def part_segmentation_loss(
    logits: Tensor, targets: Sequence[Tensor], background_weight: float, *, recompute: bool = False
) -> Tensor:
    """Weighted binary cross-entropy of all channels at the labels' resolution, the last channel being background.

    Args:
        logits: (b, n, h, w), resized to each image's labels (bilinear, ``align_corners=False``).
        targets: for each image int64 (H, W), the one channel that is positive at each pixel, 0 to n - 1; n for none.
        background_weight: factor of the last channel's terms, positive and negative; the others weigh 1.
        recompute: keep no enlarged maps for the backward pass, but enlarge them again.

    Returns:
        Mean over all images, channels and pixels (weights are not in the denominator), float32. (OV-PARTS' CATSeg.)
    """
    channels = torch.arange(logits.shape[1], device=logits.device)
    weights = torch.ones(len(channels), device=logits.device)
    weights[-1] = background_weight
    total = logits.new_zeros((), dtype=torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        for maps, target in zip(logits.float(), targets, strict=True):

            def terms(maps: Tensor, channel: Tensor, target: Tensor = target) -> Tensor:
                enlarged = F.interpolate(maps, size=target.shape, mode="bilinear", align_corners=False)
                positive = target == channel[0, :, None, None]
                losses = F.softplus(enlarged) - enlarged * positive
                return losses.sum((2, 3))

            chunks = Chunks(_PIXELS_AT_ONCE, recompute)
            sums = chunks.over(terms, maps[None], channels[None], tokens=target.numel())
            total = total + (sums[0] * weights).sum()
    return total / (len(channels) * sum(target.numel() for target in targets))

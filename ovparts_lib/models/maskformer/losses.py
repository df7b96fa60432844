"""Set-prediction losses of MaskFormer, and the pieces that Mask2Former's share.

Sources: Cheng et al., MaskFormer (NeurIPS 2021) and Mask2Former (CVPR 2022); Lin et al., "Focal Loss", ICCV 2017.
"""

from collections.abc import Sequence

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.models.maskformer.matching import FOCAL_ALPHA, Match, Segments, match_maskformer

# PointRend's candidates for each point, and the share of points that are chosen among them
OVERSAMPLE, IMPORTANT = 3.0, 0.75


def target_count(segments: Sequence[Segments], device: torch.device) -> Tensor:
    """Segments of the batch on the average process, at least 1: what sums over masks are divided by."""
    count = torch.tensor(float(sum(len(image.class_ids) for image in segments)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count /= torch.distributed.get_world_size()
    return count.clamp(min=1)


def class_loss(
    class_logits: Tensor, segments: Sequence[Segments], matches: Sequence[Match], no_object_weight: float = 0.1
) -> Tensor:
    """Cross-entropy over classes and "no object", the last column, for queries without a match.

    Args:
        class_logits: (b, queries, classes + 1).
        segments: of each image.
        matches: of each image.
        no_object_weight: weight of queries without a match; the mean is weighted.
    """
    no_object = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    for row, image, (queries, targets) in zip(wanted, segments, matches, strict=True):
        row[queries] = image.class_ids[targets]
    weights = class_logits.new_ones(no_object + 1, dtype=torch.float32)
    weights[no_object] = no_object_weight
    return F.cross_entropy(class_logits.float().flatten(0, 1), wanted.flatten(), weights)


def focal_loss(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (alpha 0.25, gamma 2) of matched masks (m, …): mean over pixels, summed over masks."""
    logits, targets = mask_logits.float().flatten(1), targets.float().flatten(1)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    missed = targets + probability - 2 * probability * targets  # 1 - probability of the truth
    alpha = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    return (alpha * missed**2 * entropy).mean(1).sum()


def cross_entropy_loss(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross-entropy of matched masks (m, …): mean over pixels, summed over masks."""
    logits, targets = mask_logits.float().flatten(1), targets.float().flatten(1)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum()


def dice_loss(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss, smoothed by 1, of matched masks (m, …), summed over masks."""
    probability, targets = mask_logits.float().sigmoid().flatten(1), targets.float().flatten(1)
    total = probability.sum(1) + targets.sum(1)
    return (1 - (2 * (probability * targets).sum(1) + 1) / (total + 1)).sum()


def matched_masks(mask_logits: Tensor, segments: Sequence[Segments], matches: Sequence[Match]) -> tuple[Tensor, Tensor]:
    """Predictions (m, h, w) and their targets bool (m, H, W), of all images together.

    Args:
        mask_logits: (b, queries, h, w).
        segments: of each image; their masks have one size.
        matches: of each image.
    """
    predicted = [logits[queries] for logits, (queries, _) in zip(mask_logits, matches, strict=True)]
    targets = [image.masks[ids] for image, (_, ids) in zip(segments, matches, strict=True)]
    return torch.cat(predicted), torch.cat(targets)


def maskformer_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    segments: Sequence[Segments],
    *,
    mask_weight: float = 20.0,
    no_object_weight: float = 0.1,
) -> dict[str, Tensor]:
    """Class, focal and dice loss of every decoder layer, each layer matched by itself; weights applied.

    Args:
        class_logits: (layers, b, queries, classes + 1).
        mask_logits: (layers, b, queries, h, w), enlarged bilinearly to the targets.
        segments: of each image, their masks at the size of the network's input.
        mask_weight: of the focal loss, in matching too; the others weigh 1.
        no_object_weight: see :func:`class_loss`.

    Returns:
        ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last layer, and with ``_0``, ``_1``, … of the earlier ones.
    """
    count = target_count(segments, mask_logits.device)
    losses = {}
    for layer, (classes, masks) in enumerate(zip(class_logits, mask_logits, strict=True)):
        suffix = "" if layer == len(class_logits) - 1 else f"_{layer}"
        matches = [
            match_maskformer(*predicted, image, mask_weight=mask_weight)
            for *predicted, image in zip(classes, masks, segments, strict=True)
        ]
        predicted, targets = matched_masks(masks, segments, matches)
        predicted = F.interpolate(predicted[:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False)
        losses |= {
            f"loss_ce{suffix}": class_loss(classes, segments, matches, no_object_weight),
            f"loss_mask{suffix}": mask_weight * focal_loss(predicted, targets) / count,
            f"loss_dice{suffix}": dice_loss(predicted, targets) / count,
        }
    return losses


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; 0 beyond the border.

    Args:
        maps: (n, h, w).
        points: (n, p, 2) or (1, p, 2), (x, y) in 0..1.

    Returns:
        (n, p).
    """
    grid = 2 * points.expand(len(maps), -1, -1)[:, None] - 1
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, count: int) -> Tensor:
    """Points for each mask where its logit is nearest to 0, and some drawn evenly (PointRend).

    Args:
        mask_logits: (n, h, w).
        count: points of each mask.

    Returns:
        (n, count, 2), (x, y) in 0..1.
    """

    def draw(number: int) -> Tensor:
        return torch.rand(len(mask_logits), number, 2).to(mask_logits.device)

    candidates = draw(int(OVERSAMPLE * count))
    kept = int(IMPORTANT * count)
    nearest = sample_points(mask_logits.float(), candidates).abs().topk(kept, largest=False).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, draw(count - kept)], dim=1)

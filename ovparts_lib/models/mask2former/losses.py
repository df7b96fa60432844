"""Matching and losses of Mask2Former: as MaskFormer's, with cross-entropy in place of focal loss, on sampled points."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovparts_lib.models.maskformer.losses import (
    class_loss,
    cross_entropy_loss,
    dice_loss,
    matched_masks,
    sample_points,
    target_count,
    uncertain_points,
)
from ovparts_lib.models.maskformer.matching import Match, Segments, class_cost, cross_entropy_cost, dice_cost, hungarian


@dataclass(frozen=True)
class PointLosses:
    """How predictions are compared with segments; the weights count in matching and in the loss.

    Attributes:
        class_weight: of the class loss.
        mask_weight: of the cross-entropy of the masks.
        dice_weight: of the dice loss.
        no_object_weight: of queries without a match in the class loss.
        points: at which masks are compared.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    points: int = 12544

    @torch.no_grad()
    def match(self, class_logits: Tensor, mask_logits: Tensor, segments: Segments) -> Match:
        """Matching of one image at points drawn evenly, the same for all masks.

        Args:
            class_logits: (q, classes + 1).
            mask_logits: (q, h, w).
            segments: of the image, their masks at any size of the same proportions.
        """
        points = torch.rand(1, self.points, 2).to(mask_logits.device)
        if not len(segments.class_ids):
            return (segments.class_ids.new_empty(0),) * 2
        logits = sample_points(mask_logits.float(), points)
        targets = sample_points(segments.masks.float(), points)
        cost = self.mask_weight * cross_entropy_cost(logits, targets) + self.dice_weight * dice_cost(logits, targets)
        return hungarian(cost + self.class_weight * class_cost(class_logits, segments.class_ids))

    def level(
        self, class_logits: Tensor, mask_logits: Tensor, segments: Sequence[Segments], count: Tensor
    ) -> dict[str, Tensor]:
        """``ce``, ``mask`` and ``dice`` of one level's predictions (b, q, …), weights applied.

        Args:
            class_logits: (b, q, classes + 1).
            mask_logits: (b, q, h, w).
            segments: of each image.
            count: what sums over masks are divided by.
        """
        per_image = zip(class_logits, mask_logits, segments, strict=True)
        matches = [self.match(*image) for image in per_image]
        predicted, targets = matched_masks(mask_logits.float(), segments, matches)
        if len(predicted):
            points = uncertain_points(predicted, self.points)
            predicted, targets = sample_points(predicted, points), sample_points(targets.float(), points)
        else:
            targets = torch.zeros_like(predicted)
        return {
            "ce": self.class_weight * class_loss(class_logits, segments, matches, self.no_object_weight),
            "mask": self.mask_weight * cross_entropy_loss(predicted, targets) / count,
            "dice": self.dice_weight * dice_loss(predicted, targets) / count,
        }

    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        segments: Sequence[Segments],
    ) -> dict[str, Tensor]:
        """Losses of every level, each matched by itself; the points are drawn by torch's generator.

        Args:
            class_logits: (levels, b, q, classes + 1), the final level last.
            mask_logits: (levels, b, q, h, w).
            segments: of each image, their masks at the size of the network's input.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the final level, and with ``_0``, ``_1``, … of the others.
        """
        count = target_count(segments, mask_logits.device)
        final = len(class_logits) - 1
        losses = {}
        for level in (final, *range(final)):
            suffix = "" if level == final else f"_{level}"
            terms = self.level(class_logits[level], mask_logits[level], segments, count)
            losses |= {f"loss_{name}{suffix}": term for name, term in terms.items()}
        return losses

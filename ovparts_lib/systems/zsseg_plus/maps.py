"""What can be looked at in ZSSeg+: the proposals of an object, and what CLIP said of the regions they make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Naming:
    """What CLIP says of an object's regions.

    Attributes:
        region_ids: labels of the regions that meet the object, ascending.
        probabilities: float32 (len(region_ids), k), of the k classes that compete.
        box: of the object's crop.
    """

    region_ids: tuple[int, ...]
    probabilities: Tensor
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class ProposalMaps:
    """Both stages on one object.

    Attributes:
        masks: float32 (q, h4, w4), probabilities, on a grid of 4 x 4 pixels of the image of stage 1, without padding.
        class_probabilities: float32 (q, classes + 1), of every class of the vocabulary, "no object" last.
        object_mask: bool (h, w), the object at the size of stage 1.
        labels: int64 (h, w), the class map of stage 1, indices in the vocabulary's classes.
        naming: what CLIP said of the regions that meet the object; None where stage 2 was not asked.
        allowed_ids: the classes that compete in stage 2.
    """

    masks: Tensor
    class_probabilities: Tensor
    object_mask: Tensor
    labels: Tensor
    naming: Naming | None
    allowed_ids: tuple[int, ...]

    @property
    def quality(self) -> Tensor:
        """(q,), how sure a mask is of itself: mean probability of its pixels above one half, 0 without any."""
        inside = self.masks > 0.5
        return (self.masks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)

    def overlap(self, masks: Tensor) -> Tensor:
        """IoU of each proposal, cut at one half, with given masks.

        Args:
            masks: bool (n, H, W) of any size, such as the annotated parts.

        Returns:
            (q, n).
        """
        size = tuple(masks.shape[-2:])
        found = torch.nn.functional.interpolate(self.masks[None], size=size, mode="bilinear", align_corners=False)[0]
        found, given = (found > 0.5).flatten(1).float(), masks.flatten(1).float()
        both = found @ given.T
        return both / (found.sum(1)[:, None] + given.sum(1) - both).clamp(min=1)

"""What systems that classify mask proposals share: maps to inspect, and checks of what they are asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass
class ProposalMaps:
    """What each mask of an image is, and who said what about it.

    Attributes:
        image: uint8 (3, h, w), what the network saw and the crops are cut from.
        masks: float32 (k, h, w), probabilities, or 0 and 1 for a user's own masks.
        proposals: P, (k, n), what the proposal network says of the n classes; None for a user's own masks.
        clip: Q, (v, n), what CLIP says of the v masks with a crop; None where its image tower was not run.
        valid: bool (k,), masks with a crop; None where CLIP's image tower was not run.
        boxes: int64 (v, 4), x0, y0, x1, y1 of the crops, the last two exclusive.
        combined: (k, n), how the two were combined: what each mask counts for each class.
        classes: the texts of the n classes.
        threshold: above which a pixel belongs to a mask's crop.
    """

    image: Tensor
    masks: Tensor
    proposals: Tensor | None
    clip: Tensor | None
    valid: Tensor | None
    boxes: Tensor | None
    combined: Tensor
    classes: tuple[str, ...]
    threshold: float = 0.5


@dataclass
class CalibrationMaps:
    """What of SCAN's predictions for one image the proposals and classes do not tell.

    Attributes:
        before: float32 (k, n), probabilities of the proposals' classes before SIM.
        after: float32 (k, n), after it.
        kept: bool (v, grid^2), patches of the v crops that hold any of the mask; None where there are no crops.
        shifted: bool (v, grid^2) by block, patches that CS overwrote after it.
        grid: patches along a side of a crop.
    """

    before: Tensor
    after: Tensor
    kept: Tensor | None
    shifted: dict[int, Tensor]
    grid: int


def check_masks(masks: Sequence[Tensor], images: Sequence[Tensor]) -> Sequence[Tensor]:
    """A user's own masks, if they fit their images.

    Raises:
        ValueError: some are not bool, none, or of another size than their image.
    """
    for number, (own, image) in enumerate(zip(masks, images, strict=True)):
        height, width = image.shape[-2:]
        if str(own.dtype) != "torch.bool" or own.ndim != 3 or own.shape[-2:] != image.shape[-2:] or not len(own):
            raise ValueError(
                f"masks of image {number} are {own.dtype} of shape {tuple(own.shape)}; wanted bool (count, {height}, "
                f"{width}), at least one: the size of the image"
            )
    return masks


def mask_quality(masks: Tensor) -> Tensor:
    """How sure masks (k, h, w) of probabilities are of themselves: (k,), the mean of their pixels above one half."""
    inside = masks > 0.5
    return (masks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def mask_overlap(masks: Tensor, given: Tensor) -> Tensor:
    """IoU of masks (k, h, w) of probabilities, cut at one half, with masks bool (n, H, W) such as annotated parts.

    Returns:
        (k, n).
    """
    enlarged = F.interpolate(masks[None], size=given.shape[-2:], mode="bilinear", align_corners=False)[0]
    found, given = (enlarged > 0.5).flatten(1).float(), given.flatten(1).float()
    both = found @ given.T
    return both / (found.sum(1)[:, None] + given.sum(1) - both).clamp(min=1)

"""Stage 2: one dense CLIP pass over an object's crop, pooled under every part region and fused with the object's mean.

Source: Wei et al., OV-PARTS, NeurIPS 2023 (datasets track), and the code released with it, which encodes the same crop
once per region.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.images import CLIP_STATISTICS, normalise
from ovparts_lib.models.clip.crops import expand_box, mask_boxes
from ovparts_lib.models.clip.dense import dense_image_features

EXPAND = 1.2  # of the object's box, about its centre
_NO_PIXELS = 1e-6


@dataclass(frozen=True)
class ObjectCrop:
    """An object as CLIP is shown it.

    Attributes:
        pixels: float32 (3, side, side), normalised for CLIP.
        labels: int64 (side, side), the label map in the crop by nearest neighbour.
        inside: bool (side, side), the object's mask in the crop.
        box: x0, y0, x1, y1 in the image, the last two exclusive.
    """

    pixels: Tensor
    labels: Tensor
    inside: Tensor
    box: tuple[int, int, int, int]


def squashed(image: Tensor, side: int) -> Tensor:
    """An image, uint8 (3, h, w) RGB, as a square for CLIP: float32 (3, side, side), normalised."""
    pixels = normalise(image, CLIP_STATISTICS)[None]
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)[0]


def cut_object(image: Tensor, object_mask: Tensor, labels: Tensor, side: int) -> ObjectCrop:
    """The object's enlarged box, squashed to a square; nothing is blanked out.

    Args:
        image: uint8 (3, h, w) RGB.
        object_mask: bool (h, w), with at least one pixel.
        labels: int64 (h, w), which region a pixel belongs to.
        side: of the square.
    """
    box = expand_box(tuple(mask_boxes(object_mask[None])[0].tolist()), EXPAND, *object_mask.shape)
    left, top, right, bottom = box
    maps = torch.stack([labels, object_mask.long()])[:, top:bottom, left:right].float()
    nearest = F.interpolate(maps[None], size=(side, side), mode="nearest")[0].long()
    return ObjectCrop(squashed(image[:, top:bottom, left:right], side), nearest[0], nearest[1] > 0, box)


@dataclass(frozen=True)
class RegionFeatures:
    """Mean CLIP features, of length 1 at every patch but not as means.

    Attributes:
        regions: float32 (n, embed_dim), of each part region.
        whole: float32 (embed_dim,), of the object.
    """

    regions: Tensor
    whole: Tensor

    def fused(self, weight: Tensor) -> Tensor:
        """(n, embed_dim): ``weight`` x region + (1 - ``weight``) x object."""
        return weight * self.regions + (1 - weight) * self.whole


def dense_features(clip: open_clip.CLIP, pixels: Tensor) -> Tensor:
    """CLIP's feature of every patch, of length 1: (b, 3, side, side) -> float32 (b, embed_dim, gh, gw)."""
    return F.normalize(dense_image_features(clip.visual, pixels).features.float(), dim=1)


def pool_regions(features: Tensor, crop: ObjectCrop, region_ids: Sequence[int]) -> RegionFeatures:
    """Means of patch features under regions; a patch counts as soon as it holds one pixel.

    Args:
        features: (embed_dim, gh, gw), of the crop.
        crop: the object; its regions are what its labels say inside its mask.
        region_ids: labels of the regions that are pooled.
    """
    ids = torch.tensor(region_ids, device=features.device, dtype=torch.int64).view(-1, 1, 1)
    masks = torch.cat([(crop.labels == ids) & crop.inside, crop.inside[None]]).float()
    stride = tuple(pixels // cells for pixels, cells in zip(masks.shape[-2:], features.shape[-2:], strict=True))
    cells = F.max_pool2d(masks[:, None], stride)[:, 0]
    means = torch.einsum("nhw,dhw->nd", cells, features) / (cells.sum((1, 2))[:, None] + _NO_PIXELS)
    return RegionFeatures(means[:-1], means[-1])

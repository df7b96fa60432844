"""What systems have in common that train a network of mask proposals: its inputs and its targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.images import IMAGENET_STATISTICS, Statistics, normalise, resize_image, shortest_edge_size
from ovparts_lib.models.maskformer.matching import Segments, joined_inputs, segments_of
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.systems.base import SegmentationSystem, batch_labels


class ProposalSegmenter(SegmentationSystem):
    """A system whose proposal network is described by ``size``."""

    size: ProposalSize

    def resized(self, image: Tensor) -> Tensor:
        """An image uint8 (3, h, w) at the size of a test picture."""
        size = shortest_edge_size(*image.shape[-2:], self.size.shortest_edge, self.size.longest_edge)
        return resize_image(image, size)

    def padded(self, images: Sequence[Tensor], statistics: Statistics = IMAGENET_STATISTICS) -> Tensor:
        """Images (3, h, w), 0..255, normalised, and padded with zeros to one size."""
        pixels = [normalise(image.to(self.device), statistics) for image in images]
        return joined_inputs(pixels, self.size.divisor)

    def targets(self, batch: Mapping[str, Any], size: tuple[int, int]) -> list[Segments]:
        """The masks of a training batch, one for each class of an image, at the network's input size.

        Unlabelled pixels and padding are negatives for every mask, as released.

        Raises:
            ValueError: see :func:`batch_labels`.
        """
        labels = [labels.to(self.device) for labels in batch_labels(batch)]
        return segments_of(labels, size, ignore_label=len(batch["vocabulary"].classes))


def enlarged_masks(mask_logits: Tensor, padded_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mask logits (queries, hp / 4, wp / 4) enlarged to the padded image and cut to the image: (queries, h, w)."""
    enlarged = F.interpolate(mask_logits[None].float(), size=padded_size, mode="bilinear", align_corners=False)
    return enlarged[0, :, : size[0], : size[1]]

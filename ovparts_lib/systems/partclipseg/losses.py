"""Sums and means of the binary cross-entropies of PartCLIPSeg, over regions and a few channels at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.systems.partclipseg.options import LossMean


@dataclass(frozen=True)
class PartclipsegWeights:
    """Weights of the loss terms beside that of the object-specific parts, which weighs 1; 0 leaves a term out.

    Attributes:
        object: of the objects' own logits.
        part: of the generic parts' own logits.
        separation: of the overlap of parts in attention.
        enhancement: of the lack of strength in attention.
        threshold: of attention, stretched to 0..1, above which a part claims a patch.

    Raises:
        ValueError: a weight below 0, or a threshold outside 0..1.
    """

    object: float = 1.0
    part: float = 1.0
    separation: float = 0.1
    enhancement: float = 0.01
    threshold: float = 0.3

    def __post_init__(self) -> None:
        for name in ("object", "part", "separation", "enhancement"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}_weight must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"attention_threshold must be within 0 and 1, not {self.threshold}")

    @property
    def attention(self) -> bool:
        """Whether the attention enters the loss at all."""
        return self.separation > 0 or self.enhancement > 0


@dataclass(frozen=True)
class PartTargets:
    """Labels of a batch at the logits' size, (b, s, s).

    Attributes:
        parts: int64, position of the object-specific part among those decoded, -1 for none.
        generics: int64, position of its generic part among the queries, -1 for none.
        objects: int64, position of the object among the queries, -1 for none and for objects without parts.
    """

    parts: Tensor
    generics: Tensor
    objects: Tensor

    def regions(self) -> Tensor:
        """Float (b, 3, s, s): part labelled; no object that has parts; everywhere."""
        labelled = self.parts >= 0
        return torch.stack([labelled, self.objects < 0, torch.ones_like(labelled)], dim=1).float()


def region_sums(logits: Tensor, positives: Tensor, first: int, regions: Tensor) -> Tensor:
    """Binary cross-entropy summed over channels and over the pixels of each region.

    Args:
        logits: (b, m, h, w), channels ``first`` to ``first + m - 1``.
        positives: int64 (b, h, w), the channel that is positive at a pixel, of these or of others.
        first: number of the first channel.
        regions: float (b, r, h, w), 1 inside.

    Returns:
        float32 (b, r).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        place = positives - first
        here = (place >= 0) & (place < logits.shape[1])
        positive = logits.gather(1, place.clamp(0, logits.shape[1] - 1).unsqueeze(1))[:, 0]
        # -log sigmoid(z) = softplus(z) - z where positive, -log(1 - sigmoid(z)) = softplus(z) elsewhere
        terms = F.softplus(logits).sum(1) - positive * here
        return torch.einsum("bhw,brhw->br", terms, regions)


def region_mean(sums: Tensor, pixels: Tensor, channels: int, over: LossMean) -> Tensor:
    """Mean over the pixels of a region and its channels, from sums per image.

    Args:
        sums: (b,).
        pixels: (b,), size of the region in each image.
        channels: how many were summed over.
        over: ``"image"``: the mean of each image, then the mean over images; ``"batch"``: over all pixels at once.

    Returns:
        scalar; a region without pixels counts 0.
    """
    if over == "batch":
        sums, pixels = sums.sum(0, keepdim=True), pixels.sum(0, keepdim=True)
    return (sums / (pixels.clamp(min=1) * channels)).mean()


def part_object_loss(sums: Tensor, sizes: Tensor, has_object: Tensor, channels: int, over: LossMean) -> Tensor:
    """The object-specific parts' term: mean over labelled pixels plus mean over pixels outside objects.

    Args:
        sums: (b, 3), of the regions of :meth:`PartTargets.regions`.
        sizes: (b, 3), their pixels.
        has_object: bool (b,), whether the image shows an object that has parts; without one (in the image, or in the
            batch), the second mean is left out, as released.
        channels: parts and background.
        over: see :func:`region_mean`.
    """
    shown = has_object.any().expand_as(has_object) if over == "batch" else has_object
    labelled = region_mean(sums[:, 0], sizes[:, 0], channels, over)
    return labelled + region_mean(sums[:, 1] * shown, sizes[:, 1], channels, over)

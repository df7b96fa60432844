"""Scores as masks and their classes, for systems that classify segments: the map of every class is never needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_VALUES_AT_ONCE = 1 << 26  # of class maps, 256 MB


@dataclass
class FactoredScores:
    """Scores of one image whose class maps are sums of masks: 847 classes at 640 x 2560 would fill 5.5 GB.

    Attributes:
        masks: float32 (k, h, w), 0..1.
        class_weights: float32 (n, k), how much each mask counts for each class.
        class_ids: indices of the n classes in the vocabulary.
        background: float32 (h, w), score of none of the classes; None if the system has none.
        image_size: (height, width) of the image as it was given.
    """

    masks: Tensor
    class_weights: Tensor
    class_ids: tuple[int, ...]
    background: Tensor | None
    image_size: tuple[int, int]

    @property
    def logits(self) -> Tensor:
        """The class maps, float32 (n, h, w): sums of masks."""
        return torch.einsum("nk,khw->nhw", self.class_weights, self.masks)

    def label_map(self) -> Tensor:
        """The class of each pixel of the image, a few rows at a time.

        Returns:
            int64 (H, W), of ``class_ids``; -1 where the background wins.
        """
        maps = self.masks if self.background is None else torch.cat([self.masks, self.background[None]])
        if tuple(maps.shape[-2:]) != tuple(self.image_size):
            maps = F.interpolate(maps[None], size=self.image_size, mode="bilinear", align_corners=False)[0]
        weights = self.class_weights
        if self.background is not None:
            weights = F.pad(weights, (0, 1, 0, 1))
            weights[-1, -1] = 1
        ids = torch.tensor([*self.class_ids, -1], device=maps.device)
        rows = max(1, _VALUES_AT_ONCE // (len(weights) * self.image_size[1]))
        pieces = [torch.einsum("nk,khw->nhw", weights, piece).argmax(0) for piece in maps.split(rows, dim=1)]
        return ids[torch.cat(pieces)]

"""What CLIP said of regions, brought to pixels and joined with stage 1."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ovparts_lib.vocabularies import PartVocabulary

ClassRule = Literal["exact", "substring"]


def allowed_classes(vocabulary: PartVocabulary, object_id: int, rule: ClassRule = "exact") -> tuple[int, ...]:
    """Parts that may be found on an object, in label order.

    Args:
        vocabulary: of the parts.
        object_id: index of the object.
        rule: ``exact``: its own; ``substring``, as released: those whose name contains the object's, so that a chair
            may have an armchair's parts.

    Raises:
        ValueError: the object has no parts.
    """
    allowed = vocabulary.parts_of(object_id) if rule == "exact" else vocabulary.parts_naming(object_id)
    if not allowed:
        name = vocabulary.objects[object_id]
        raise ValueError(f"{name!r} has no parts in the vocabulary {vocabulary.name!r}, so there is nothing to find")
    return allowed


def region_map(labels: Tensor, region_ids: Sequence[int], probabilities: Tensor) -> Tensor:
    """Each pixel gets what was said of the region it is in, 0 where nothing was.

    Args:
        labels: int64 (h, w), which region a pixel belongs to.
        region_ids: labels of the regions that were classified, ascending.
        probabilities: (n, k), of these regions.

    Returns:
        (k, h, w).
    """
    ids = torch.tensor(region_ids, device=labels.device, dtype=torch.int64)
    place = torch.full((max(int(labels.max()), *region_ids, 0) + 1,), len(ids), device=labels.device)
    place[ids] = torch.arange(len(ids), device=labels.device)
    rows = torch.cat([probabilities, probabilities.new_zeros(1, probabilities.shape[1])])
    return rows.T[:, place[labels]]


def ensembled(stage1: Tensor, clip: Tensor, seen: Sequence[bool], weight: float) -> Tensor:
    """Geometric mean of both stages, (k, h, w) each: ``weight`` goes to stage 1 for seen classes, to CLIP for others.

    Args:
        stage1: scores of stage 1, at least 0.
        clip: probabilities of stage 2.
        seen: whether each class was seen in training.
        weight: 0..1.
    """
    exponents = torch.tensor([weight if each else 1 - weight for each in seen], device=clip.device).view(-1, 1, 1)
    return stage1**exponents * clip ** (1 - exponents)

"""What can be looked at in ZSSeg+: the proposals of an object, and the regions they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovparts_lib.systems.proposal_segmenter import enlarged_masks
from ovparts_lib.systems.proposals import ProposalMaps


def proposal_maps(
    image: Tensor, probabilities: Tensor, mask_logits: Tensor, padded_size: tuple[int, int], classes: tuple[str, ...]
) -> ProposalMaps:
    """The queries of stage 1.

    Args:
        image: uint8 (3, h, w).
        probabilities: (queries, classes).
        mask_logits: (queries, hp / 4, wp / 4).
        padded_size: (hp, wp).
        classes: their texts.
    """
    masks = enlarged_masks(mask_logits, padded_size, image.shape[-2:]).sigmoid()
    return ProposalMaps(image, masks, probabilities, None, None, None, probabilities, classes)


def region_maps(proposals: ProposalMaps, labels: Tensor, object_mask: Tensor) -> ProposalMaps:
    """The regions of an object, with what stage 1 says of each on average over its pixels.

    Args:
        proposals: of the object.
        labels: int64 (h, w), the class map.
        object_mask: bool (h, w).
    """
    ids = labels[object_mask].unique().view(-1, 1, 1)
    masks = ((labels == ids) & object_mask).float()
    shares = torch.einsum("nhw,qhw->nq", masks, proposals.masks) / masks.sum((1, 2))[:, None]
    stage1 = shares @ proposals.proposals
    return replace(proposals, masks=masks, proposals=stage1, combined=stage1)


def joined(maps: Sequence[ProposalMaps]) -> ProposalMaps:
    """Maps of several objects of one image, one after the other."""
    fields = ("masks", "proposals", "clip", "valid", "boxes", "combined")
    values = {name: [getattr(each, name) for each in maps] for name in fields}
    return replace(maps[0], **{name: None if each[0] is None else torch.cat(each) for name, each in values.items()})

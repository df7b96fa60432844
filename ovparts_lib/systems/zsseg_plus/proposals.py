"""Stage 1 around MaskFormer's blocks: the object's mask as a prompt, the class map, and what can be looked at.

Source: Wei et al., OV-PARTS, NeurIPS 2023 (datasets track), and the code released with it ("object mask prompt").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.systems.proposal_segmenter import enlarged_masks
from ovparts_lib.systems.proposals import ProposalMaps
from ovparts_lib.systems.zsseg_plus.options import FeatureMean, KeyMask

DIVISOR = 32  # stride of the backbone's coarsest map
_ROWS = 64  # of the class map that are computed at once


@dataclass(frozen=True)
class ImageFeatures:
    """What stage 1 knows of an image before it is told an object.

    Attributes:
        coarse: (b, channels, hp / 32, wp / 32), of the backbone.
        mask_features: (b, width, hp / 4, wp / 4), of the pixel decoder.
    """

    coarse: Tensor
    mask_features: Tensor


@dataclass(frozen=True)
class Proposals:
    """Queries after the decoder's layers, the last one last.

    Attributes:
        class_embeddings: (layers, b, queries, embed_dim), not normalised.
        mask_logits: (layers, b, queries, hp / 4, wp / 4).
    """

    class_embeddings: Tensor
    mask_logits: Tensor


def record_masks(
    object_maps: Sequence[Tensor], size: tuple[int, int], ignore_label: int, withheld: Sequence[int] = ()
) -> Tensor:
    """Float (b, hp, wp): 1 on each record's object; all 0 for an object the training vocabulary does not know.

    Args:
        object_maps: int64 (h, w) each, the record's object and ``ignore_label`` elsewhere.
        size: (hp, wp) of the network's input.
        ignore_label: of the training vocabulary.
        withheld: objects whose masks are 0 all over.

    Raises:
        ValueError: a record shows several objects, so that no one knows which of them it is about.
    """
    masks = []
    for number, object_map in enumerate(object_maps):
        labelled = object_map != ignore_label
        found = object_map[labelled].unique().tolist()
        if len(found) > 1:
            raise ValueError(
                f"record {number} of the batch shows several objects, and ZSSeg+ is told one: train on a split with "
                "one object per record (…_obj_condition), or let the dataset flatten records to one object each "
                "(per_object)"
            )
        below, right = size[0] - labelled.shape[0], size[1] - labelled.shape[1]
        mask = F.pad(labelled.float(), (0, right, 0, below))
        masks.append(torch.zeros_like(mask) if set(found) & set(withheld) else mask)
    return torch.stack(masks)


def key_bias(object_masks: Tensor, rule: KeyMask = "released") -> Tensor:
    """What the object's mask adds to the logits of the queries' attention to the image.

    Args:
        object_masks: float (b, hp, wp), 1 inside.
        rule: ``released``: 1 for cells without a pixel of the object and 0 for the others, because a mask of floats
            meant to hide keys is added to the logits; ``hidden``: minus infinity for them, unless no cell would be
            left.

    Returns:
        float (b, hp / 32 * wp / 32), row by row.
    """
    cells = F.max_pool2d(object_masks[:, None], DIVISOR).flatten(1)
    if rule == "released":
        return 1 - cells
    outside = (cells == 0) & cells.any(1, keepdim=True)
    return torch.zeros_like(cells).masked_fill(outside, float("-inf"))


def object_feature(mask_features: Tensor, object_masks: Tensor, rule: FeatureMean = "image") -> Tensor:
    """The object's feature that is added to every query before its class is read.

    The released code enlarges the features to the image, blanks what is outside the object and takes the mean of all
    pixels. Each feature then counts as often as its 4 x 4 pixels are inside, which is what is computed here.

    Args:
        mask_features: (b, width, hp / 4, wp / 4).
        object_masks: float (b, hp, wp).
        rule: mean over the pixels of the whole padded ``image``, as released, so that it grows with the object's area;
            or of the ``object``.

    Returns:
        (b, width); 0 without an object.
    """
    shares = F.avg_pool2d(object_masks[:, None], 4)[:, 0]
    total = torch.einsum("bchw,bhw->bc", mask_features, shares)
    if rule == "image":
        return total / shares[0].numel()
    return total / shares.sum((1, 2)).clamp(min=1e-6)[:, None]


def class_map(
    probabilities: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    padded_size: tuple[int, int],
    channels: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Semantic inference: class probabilities of the queries, weighed by their masks, at every pixel.

    Args:
        probabilities: (queries, classes), without "no object".
        mask_logits: (queries, hp / 4, wp / 4).
        size: (h, w) of the image.
        padded_size: (hp, wp).
        channels: the classes whose scores are kept.

    Returns:
        int64 (h, w), the best class; float32 (len(channels), h, w).
    """
    masks = enlarged_masks(mask_logits, padded_size, size)
    labels = torch.empty(size, dtype=torch.int64, device=masks.device)
    kept = torch.empty(len(channels), *size, device=masks.device)
    chosen = list(channels)
    # a few rows at a time, because all classes at the image's size would be the largest tensor by far
    for top in range(0, size[0], _ROWS):
        rows = slice(top, top + _ROWS)
        scores = torch.einsum("qc,qhw->chw", probabilities.float(), masks[:, rows].sigmoid())
        labels[rows] = scores.argmax(0)
        kept[:, rows] = scores[chosen]
    return labels, kept


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

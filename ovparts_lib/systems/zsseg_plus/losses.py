"""The object's mask as a record of a batch gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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

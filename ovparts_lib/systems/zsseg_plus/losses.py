"""What a batch of (image, object) records teaches stage 1."""

from __future__ import annotations

import torch
from torch import Tensor

from ovparts_lib.models.maskformer.matching import Segments
from ovparts_lib.systems.zsseg_plus.proposals import padded
from ovparts_lib.vocabularies.vocabulary import Vocabulary


def part_segments(part_map: Tensor, vocabulary: Vocabulary, size: tuple[int, int]) -> Segments:
    """A mask for each part in the record; padding and pixels without a part are negative for all.

    Args:
        part_map: int64 (h, w), ids of ``vocabulary`` or its ignore label.
        vocabulary: the training vocabulary.
        size: of the network's input, at least the map's.

    Raises:
        ValueError: a label is neither a part nor the ignore label.
    """
    ids = part_map.unique()
    ids = ids[ids != vocabulary.ignore_label]
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(vocabulary.parts):
        raise ValueError(
            f"a part map holds the label {int(ids.max())}; the vocabulary has 0 to {len(vocabulary.parts) - 1} and the "
            f"ignore label {vocabulary.ignore_label}"
        )
    return Segments(ids, padded(part_map == ids[:, None, None], size))


def object_mask(object_map: Tensor, vocabulary: Vocabulary, size: tuple[int, int]) -> Tensor:
    """Float (hp, wp): 1 on the record's object; all 0 for an object the training vocabulary does not know.

    Args:
        object_map: int64 (h, w), the record's object and the ignore label elsewhere.
        vocabulary: the training vocabulary.
        size: of the network's input.

    Raises:
        ValueError: there are several objects, so that no one knows which of them the record is about.
    """
    labelled = object_map != vocabulary.ignore_label
    if len(object_map[labelled].unique()) > 1:
        raise ValueError(
            "a record shows several objects, and ZSSeg+ is told one: train on a split with one object per record "
            "(…_obj_condition), or flatten the records"
        )
    return padded(labelled.to(torch.float32), size)

"""From label maps to the targets of PartCATSeg's losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovparts_lib.models.partcatseg_losses import NO_LABEL, PartTargets
from ovparts_lib.vocabularies.vocabulary import Vocabulary


def batch_targets(
    batch: dict[str, Any], covered: Sequence[tuple[float, float]] | None, device: torch.device
) -> list[PartTargets]:
    """Targets of every image of a batch.

    An object without parts in the vocabulary counts as background, as released.

    Args:
        batch: see :meth:`models.partcatseg.PartCatseg.loss`.
        covered: for each image the (height, width) in its pixels that the logits span; None where they are to span the
            label maps, padding or not, as the released code takes it.
        device: where the targets go.

    Raises:
        ValueError: no object maps, part and object map of different sizes, or a label that is neither in the
            vocabulary nor its ignore label; the message names the image.
    """
    vocabulary = batch["vocabulary"]
    if "object_maps" not in batch:
        raise ValueError("PartCATSeg trains on part maps and object maps; the batch has no object_maps")
    ranks = [NO_LABEL if rank is None else rank for rank in vocabulary.object_to_object_with_parts]
    to_rank = torch.tensor([*ranks, NO_LABEL], device=device)  # NO_LABEL indexes the last entry
    targets = []
    for number, image in enumerate(batch["images"]):
        name = f"image {batch['image_ids'][number]!r}" if batch.get("image_ids") else f"image {number} of the batch"
        part_map, object_map = batch["part_maps"][number], batch["object_maps"][number]
        if part_map.shape != object_map.shape:
            raise ValueError(
                f"the part map of {name} is {tuple(part_map.shape)}, its object map {tuple(object_map.shape)}"
            )
        parts = _checked(part_map.to(device), len(vocabulary.parts), f"part map of {name}", "parts", vocabulary)
        objects = _checked(object_map.to(device), len(vocabulary.objects), f"object map of {name}", "objects", vocabulary)
        size = tuple(part_map.shape)
        if covered is not None:
            spans = zip(size, covered[number], image.shape[-2:], strict=True)
            size = tuple(round(labels * span / pixels) for labels, span, pixels in spans)
        targets.append(PartTargets(parts, to_rank[objects], size))
    return targets


def _checked(labels: Tensor, count: int, what: str, kind: str, vocabulary: Vocabulary) -> Tensor:
    """The label map, int64, with ``NO_LABEL`` for the ignore label."""
    labels = labels.long()
    ignored = labels == vocabulary.ignore_label
    wrong = ~ignored & ((labels < 0) | (labels >= count))
    if bool(wrong.any()):
        raise ValueError(
            f"the {what} holds label {int(labels[wrong][0])}; the vocabulary {vocabulary.name!r} has {kind} 0 to "
            f"{count - 1} and ignore label {vocabulary.ignore_label}: remap the labels to it first"
        )
    return labels.masked_fill(ignored, NO_LABEL)

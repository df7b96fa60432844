"""From class logits to label maps at image size, without a dense float map of all classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.models.scores import PartScores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

# Float32 values interpolated at once: 16 MiB on a CPU (in cache, yet few enough calls), 256 MiB on a GPU (large
# kernels). Only speed and memory depend on it.
_CHUNK_VALUES = {"cpu": 1 << 22, "cuda": 1 << 26}


def oracle_map(scores: PartScores, object_id: int, vocabulary: Vocabulary) -> Tensor:
    """Label map when the object is known: arg-max among its own parts, everywhere in the image.

    The parts are found by the object's id, never by a substring of a name. Nothing competes with them, no background
    and no threshold (OV-PARTS, Oracle-Obj).

    Args:
        scores: a system's output for one image, holding at least the object's parts.
        object_id: index of the object in the vocabulary.
        vocabulary: the vocabulary of ``scores.part_ids``.

    Returns:
        int64 (H, W), part ids.

    Raises:
        ValueError: the object has no parts, or ``scores`` lacks one of them.
    """
    parts = vocabulary.parts_of(object_id)
    if not parts:
        raise ValueError(f"object {object_id} of the vocabulary {vocabulary.name!r} has no parts to choose among")
    channels = {part: channel for channel, part in enumerate(scores.part_ids)}
    missing = [vocabulary.parts[part] for part in parts if part not in channels]
    if missing:
        raise ValueError(f"the scores lack {', '.join(missing)}; predict with part_ids that include the object's parts")
    # Label order, so that ties go to the first class.
    winner = upsampled_argmax(scores.logits, scores.image_size, [channels[part] for part in parts])
    return torch.tensor(parts, device=winner.device)[winner]


def pred_all_map(scores: PartScores, nothing: int | None = None) -> Tensor:
    """Label map when nothing is known: arg-max among all parts and the background, if the system has one.

    Args:
        scores: a system's output for one image.
        nothing: the id for background; by default the number of parts in ``scores``, which must then be all parts of
            the vocabulary in order.

    Returns:
        int64 (H, W), part ids, and ``nothing`` where the background wins. Ties go to the first channel.

    Raises:
        ValueError: ``nothing`` is left out although ``scores`` holds only some of the parts, or is itself a part id.
    """
    identity = scores.part_ids == tuple(range(len(scores.part_ids)))
    if nothing is None:
        if not identity:
            raise ValueError("the scores do not hold all parts in order; say which id stands for nothing")
        nothing = len(scores.part_ids)
    if nothing in scores.part_ids:
        raise ValueError(f"{nothing} cannot stand for nothing: it is the id of a part")
    winner = upsampled_argmax(scores.logits, scores.image_size, background=scores.background)
    if identity and nothing == len(scores.part_ids):
        return winner
    return torch.tensor((*scores.part_ids, nothing), device=winner.device)[winner]


def upsampled_argmax(
    logits: Tensor,
    size: tuple[int, int],
    channels: Sequence[int] | None = None,
    background: Tensor | None = None,
) -> Tensor:
    """Arg-max over channels of bilinearly resized logits; only a few channels are ever held at full size.

    The rule of the released evaluators (resize logits with ``align_corners=False``, then arg-max), as a running maximum
    over chunks of channels. Their sigmoid in between does not change which logit is largest; it only makes ties of
    logits so large that it saturates.

    Args:
        logits: float (n, h, w).
        size: (H, W) of the result.
        channels: the channels that compete, in order of preference on ties; None for all.
        background: float (h, w), one more channel, last in preference.

    Returns:
        int64 (H, W) on the device of ``logits``: position in ``channels``, or ``len(channels)`` for the background.
    """
    if logits.ndim != 3:
        raise ValueError(f"logits must be (channels, height, width), not {tuple(logits.shape)}")
    order = list(range(logits.shape[0])) if channels is None else list(channels)
    step = max(1, _CHUNK_VALUES.get(logits.device.type, 1 << 22) // (size[0] * size[1]))
    chunks = [logits[_as_slice(order[start : start + step])] for start in range(0, len(order), step)]
    if background is not None:
        chunks.append(background[None])
    best, winner, start = None, None, 0
    for chunk in chunks:
        full = F.interpolate(chunk[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        values, index = full.max(0)  # of equal maxima, torch names the first
        if best is None:
            best, winner = values, index
        else:
            better = values > best
            best = torch.where(better, values, best)
            winner = torch.where(better, index + start, winner)
        start += len(chunk)
    return winner


def _as_slice(indices: list[int]) -> slice | list[int]:
    """Neighbouring channels as a slice, which is a view; a list would copy them."""
    if indices == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return indices

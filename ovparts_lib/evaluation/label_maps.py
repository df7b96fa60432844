"""From class scores to part labels, at the pixels that are wanted, without a dense map of all classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ovparts_lib.evaluation.sampling import first_maximum, sampled
from ovparts_lib.systems.scores import ObjectScores, PartScores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

OracleRule = Literal["exact", "zero_others", "substring"]
"""How the known object restricts the parts.

``exact``: only the parts of that object compete, found by its id.
``zero_others``: CLIPSeg and PartCLIPSeg as released: probabilities of parts of other objects are set to 0.0 and stay in
the arg-max, which shows only where the object's own probabilities underflow to 0 or saturate.
``substring``: the CAT-Seg family as released: all parts compete whose name contains the object's name, so that parts of
other objects slip in ("cabinet's door" for door), and of several objects only the one with the smallest id counts.
"""


def oracle_map(
    scores: PartScores, object_id: int | Sequence[int], vocabulary: Vocabulary, rule: OracleRule = "exact"
) -> Tensor:
    """Label map when the object is known: arg-max among its own parts, everywhere in the image.

    Nothing else competes, no background and no threshold (OV-PARTS, Oracle-Obj).

    Args:
        scores: a system's output for one image, holding at least the parts that may compete.
        object_id: index of the object in the vocabulary, or of several.
        vocabulary: the vocabulary of ``scores.part_ids``.
        rule: see :data:`OracleRule`.

    Returns:
        int64 (H, W), part ids.

    Raises:
        ValueError: no such rule, the object has no parts, or ``scores`` lacks one of them.
    """
    choice = OracleChoice.of(scores, object_id, vocabulary, rule)
    # One object's few parts are sampled from their channels alone.
    only = None if rule == "zero_others" else choice.channels
    chosen = with_channels(scores, choice.channels) if only is not None else scores
    if only is not None:
        choice = OracleChoice(list(range(len(only))), choice.part_ids, None, False)
    winner = torch.empty(_count(scores), dtype=torch.int64, device=scores.logits.device)
    for start, values in sampled_parts(chosen, _everywhere(scores), background=False):
        winner[start : start + len(values)] = choice(values)
    return winner.view(scores.image_size)


def pred_all_map(scores: PartScores, nothing: int | None = None, *, vocabulary: Vocabulary | None = None) -> Tensor:
    """Label map when nothing is known: arg-max among all parts and the background, if the system has one.

    Where the scores say objects too, a pixel's object is chosen first and then the best of that object's parts, or
    nothing if no object wins (PartCLIPSeg: part probabilities are multiplied by whether their object won).

    Logits are compared as they are. CLIPSeg and PartCLIPSeg as released compare their sigmoid in float32, which is not
    imitated here: it rounds logits above about 17 to probability 1 (and neighbouring ones well below that to a common
    value), and of such ties the class that stands first wins; logits below about -88 underflow to 0 likewise, where
    PartCLIPSeg's barred parts tie with them. Here the larger logit wins, and a barred part never does.

    Args:
        scores: a system's output for one image.
        nothing: the id for background; by default the number of parts in ``scores``, which must then be all parts of
            the vocabulary in order.
        vocabulary: the vocabulary of the scores; needed where they say objects.

    Returns:
        int64 (H, W), part ids, and ``nothing`` where the background wins. Ties go to the first channel.

    Raises:
        ValueError: ``nothing`` is left out although ``scores`` holds only some of the parts, or is itself a part id;
            or the vocabulary is left out although it is needed.
    """
    choice = AllChoice.of(scores, nothing, vocabulary)
    winner = torch.empty(_count(scores), dtype=torch.int64, device=scores.logits.device)
    pixels = _everywhere(scores)
    gate = object_winners(scores, pixels)
    for start, values in sampled_parts(scores, pixels, background=True):
        winner[start : start + len(values)] = choice(values, gate, start)
    return winner.view(scores.image_size)


def upsampled_argmax(
    logits: Tensor,
    size: tuple[int, int],
    channels: Sequence[int] | None = None,
    background: Tensor | None = None,
) -> Tensor:
    """Arg-max over channels of bilinearly resized logits; only a few pixels' channels are ever held at full size.

    The rule of the released evaluators (resize logits with ``align_corners=False``, then arg-max). Their sigmoid in
    between does not change which logit is largest; it only makes ties of logits so large that it saturates.

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
    maps = [logits if channels is None else logits[list(channels)]]
    if background is not None:
        maps.append(background[None])
    pixels = torch.arange(size[0] * size[1], device=logits.device)
    winner = torch.empty(len(pixels), dtype=torch.int64, device=logits.device)
    for start, values in sampled(maps, pixels, size):
        winner[start : start + len(values)] = first_maximum(values)
    return winner.view(size)


@dataclass(frozen=True)
class OracleChoice:
    """Which part wins at a pixel when its object is known; call it with (m, n) sampled values of all channels.

    Attributes:
        channels: the channels that compete, in label order.
        part_ids: their parts.
        zeroed: under ``zero_others``, which channels are set to 0.0, bool (n,); ``channels`` are then all of them.
        squash: whether the values are logits, of which ``zero_others`` takes the sigmoid.
    """

    channels: list[int]
    part_ids: Tensor
    zeroed: Tensor | None
    squash: bool

    @classmethod
    def of(
        cls, scores: PartScores, object_id: int | Sequence[int], vocabulary: Vocabulary, rule: OracleRule = "exact"
    ) -> OracleChoice:
        """The choice for one object, or several; see :func:`oracle_map`."""
        ids = (object_id,) if isinstance(object_id, int) else tuple(object_id)
        parts = competing_parts(ids, vocabulary, rule)
        if not parts:
            raise ValueError(f"object {ids[0]} of the vocabulary {vocabulary.name!r} has no parts to choose among")
        place = {part: channel for channel, part in enumerate(scores.part_ids)}
        everyone = parts if rule != "zero_others" else tuple(range(len(vocabulary.parts)))
        missing = [vocabulary.parts[part] for part in everyone if part not in place]
        if missing:
            raise ValueError(
                f"the scores lack {', '.join(missing)}; predict with part_ids that include the object's parts"
            )
        device = scores.logits.device
        # Label order, so that ties go to the first class.
        zeroed = None
        if rule == "zero_others":
            zeroed = torch.tensor([part not in set(parts) for part in everyone], device=device)
        return cls(
            [place[part] for part in everyone],
            torch.tensor(everyone, device=device),
            zeroed,
            scores.resized_as == "logits",
        )

    def __call__(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Part ids of (m, n) values, or of some rows of them: int64."""
        first, last = self.channels[0], self.channels[-1] + 1
        adjacent = self.channels == list(range(first, last))  # then a view will do
        values = values[:, first:last] if adjacent else values[:, self.channels]
        values = values if rows is None else values.index_select(0, rows)
        if self.zeroed is not None:
            values = (values.sigmoid() if self.squash else values).masked_fill(self.zeroed, 0.0)
        return self.part_ids[first_maximum(values)]


@dataclass(frozen=True)
class AllChoice:
    """Which part, or nothing, wins at a pixel of which nothing is known.

    Attributes:
        labels: id of each channel, background last, int64; None where they are 0, 1, 2, ….
        nothing: the id that stands for no part.
        foreign: bool (m + 1, n), for systems with objects: the channels that do not belong to each object; last row:
            no object. None otherwise.
    """

    labels: Tensor | None
    nothing: int
    foreign: Tensor | None

    @classmethod
    def of(cls, scores: PartScores, nothing: int | None, vocabulary: Vocabulary | None) -> AllChoice:
        """The choice for a system's scores; see :func:`pred_all_map`."""
        identity = scores.part_ids == tuple(range(len(scores.part_ids)))
        if nothing is None:
            if not identity:
                raise ValueError("the scores do not hold all parts in order; say which id stands for nothing")
            nothing = len(scores.part_ids)
        if nothing in scores.part_ids:
            raise ValueError(f"{nothing} cannot stand for nothing: it is the id of a part")
        device = scores.logits.device
        labels = None
        if not (identity and nothing == len(scores.part_ids)):
            labels = torch.tensor((*scores.part_ids, nothing), device=device)
        foreign = None
        if scores.objects is not None:
            if vocabulary is None:
                raise ValueError(
                    "the scores choose an object first; give the vocabulary, which knows the objects' parts"
                )
            owners = torch.tensor([vocabulary.part_to_object[part] for part in scores.part_ids])
            ids = torch.tensor((*scores.objects.object_ids, -1))
            foreign = owners[None] != ids[:, None]
            if scores.background is not None:
                foreign = torch.cat([foreign, torch.ones(len(ids), 1, dtype=torch.bool)], dim=1)
            foreign = foreign.to(device)
        return cls(labels, nothing, foreign)

    def __call__(self, values: Tensor, gate: Tensor | None = None, start: int = 0) -> Tensor:
        """Ids of (m, n) values at the pixels from ``start`` on: int64 (m,).

        ``gate`` is the winning object's channel at all pixels, see :func:`object_winners`.
        """
        if gate is None or self.foreign is None:
            winner = first_maximum(values)
            return winner if self.labels is None else self.labels[winner]
        here = gate[start : start + len(values)]
        barred = self.foreign[here]
        winner = first_maximum(values.masked_fill(barred, -torch.inf))
        winner = winner if self.labels is None else self.labels[winner]
        # An object without parts, or no object: no part can win.
        return winner.masked_fill(self.foreign.all(dim=1)[here], self.nothing)


def competing_parts(object_ids: Sequence[int], vocabulary: Vocabulary, rule: OracleRule = "exact") -> tuple[int, ...]:
    """Parts, in label order, that may win when the objects are known; see :data:`OracleRule`."""
    if rule not in get_args(OracleRule):
        raise ValueError(f"the oracle rule is one of {', '.join(get_args(OracleRule))}, not {rule!r}")
    if rule == "substring":
        name = vocabulary.objects[min(object_ids)]
        return tuple(i for i, part in enumerate(vocabulary.parts) if name in part)
    return tuple(sorted({part for one in object_ids for part in vocabulary.parts_of(one)}))


def object_winners(scores: PartScores, pixels: Tensor) -> Tensor | None:
    """At each pixel, the channel of the object that wins, ``m`` for none; None for systems without objects."""
    objects = scores.objects
    if objects is None:
        return None
    winner = torch.empty(len(pixels), dtype=torch.int64, device=pixels.device)
    for start, values in sampled(object_maps(objects), pixels, scores.image_size, scores.covered_size):
        winner[start : start + len(values)] = first_maximum(values)
    return winner


def object_maps(objects: ObjectScores) -> list[Tensor]:
    """Object logits and, last, their background."""
    return [objects.logits] if objects.background is None else [objects.logits, objects.background[None]]


def part_maps(scores: PartScores, *, background: bool) -> list[Tensor]:
    """Part logits and, if asked for and there, the background last."""
    return [scores.logits, scores.background[None]] if background and scores.background is not None else [scores.logits]


def with_channels(scores: PartScores, channels: Sequence[int]) -> PartScores:
    """The same scores with some channels only; neighbouring ones as a view."""
    first, last = channels[0], channels[-1] + 1
    adjacent = list(channels) == list(range(first, last))
    logits = scores.logits[first:last] if adjacent else scores.logits[list(channels)]
    ids = tuple(scores.part_ids[channel] for channel in channels)
    return PartScores(
        logits, ids, None, scores.image_size, covered_size=scores.covered_size, resized_as=scores.resized_as
    )


def sampled_parts(scores: PartScores, pixels: Tensor, *, background: bool) -> Iterator[tuple[int, Tensor]]:
    """Values of all parts, and of the background, at some pixels of the image; see :func:`sampled`."""
    return sampled(
        part_maps(scores, background=background),
        pixels,
        scores.image_size,
        scores.covered_size,
        probabilities=scores.resized_as == "probabilities",
    )


def _everywhere(scores: PartScores) -> Tensor:
    return torch.arange(_count(scores), device=scores.logits.device)


def _count(scores: PartScores) -> int:
    return int(scores.image_size[0]) * int(scores.image_size[1])

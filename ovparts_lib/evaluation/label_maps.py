"""From class scores to labels, at the pixels that are asked for, without a dense map of all classes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from ovparts_lib.evaluation.sampling import CHUNK_VALUES, first_maximum, sampled
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

OracleRule = Literal["exact", "zero_others", "substring"]
"""How the known object restricts the parts.

``exact``: only the parts of that object compete, found by its id.
``zero_others``: CLIPSeg and PartCLIPSeg as released: probabilities of parts of other objects are set to 0.0 and stay in
the arg-max, which shows only where the object's own probabilities underflow to 0 or saturate.
``substring``: the CAT-Seg family as released: all parts compete whose name contains the object's name, so that parts of
other objects slip in ("cabinet's door" for door), and of several objects only the one with the smallest id counts.
"""


def oracle_map(
    scores: Scores, object_id: int | Sequence[int], vocabulary: PartVocabulary, rule: OracleRule = "exact"
) -> Tensor:
    """Label map when the object is known: arg-max among its own parts, everywhere in the image.

    Nothing else competes, no background and no threshold (OV-PARTS, Oracle-Obj).

    Args:
        scores: a system's output for one image, holding at least the parts that may compete.
        object_id: index of the object in the vocabulary, or of several.
        vocabulary: the vocabulary of ``scores.class_ids``.
        rule: see :data:`OracleRule`.

    Returns:
        int64 (H, W), part ids.

    Raises:
        ValueError: no such rule, the object has no parts, or ``scores`` lacks one of them.
    """
    choice = OracleChoice.of(scores, object_id, vocabulary, rule)
    # One object's few parts are sampled from their channels alone.
    chosen = with_channels(scores, choice.channels)
    choice = replace(choice, channels=list(range(len(choice.channels))))
    chunks = sampled_classes(chosen, every_pixel(scores), background=False)
    return torch.cat([choice(values) for _, values in chunks]).view(scores.image_size)


def pred_all_map(scores: Scores, background_id: int | None = None, *, vocabulary: Vocabulary | None = None) -> Tensor:
    """Label map when no object is known: arg-max among all classes and the background, if the system has one.

    Where the system also predicts objects, a pixel's object is chosen first and then the best of that object's parts,
    or background if no object wins (PartCLIPSeg: part probabilities are multiplied by whether their object won).

    Logits are compared as they are. CLIPSeg and PartCLIPSeg as released compare their sigmoid in float32, which is not
    imitated here: it rounds logits above about 17 to probability 1 (and neighbouring ones well below that to a common
    value), and of such ties the class that stands first wins; logits below about -88 underflow to 0 likewise, where
    PartCLIPSeg's barred parts tie with them. Here the larger logit wins, and a barred part never does.

    Args:
        scores: a system's output for one image.
        background_id: the id for background; by default the number of classes in ``scores``, which must then be all
            classes of the vocabulary in order.
        vocabulary: the vocabulary of the scores; needed where they hold objects.

    Returns:
        int64 (H, W), class ids, and ``background_id`` where the background wins. Ties go to the first channel.

    Raises:
        ValueError: ``background_id`` is left out although ``scores`` holds only some of the classes, or is itself a
            class id; or the vocabulary is left out although it is needed.
    """
    choice, pixels = AllChoice.of(scores, background_id, vocabulary), every_pixel(scores)
    gate = object_winners(scores, pixels)
    chunks = sampled_classes(scores, pixels, background=True)
    return torch.cat([choice(values, gate, start) for start, values in chunks]).view(scores.image_size)


@dataclass(frozen=True)
class OracleChoice:
    """Which part wins at a pixel when its object is known; call it with (m, n) sampled values of all channels.

    Attributes:
        channels: the channels that compete, in label order, so that ties go to the first class.
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
        cls, scores: Scores, object_id: int | Sequence[int], vocabulary: PartVocabulary, rule: OracleRule = "exact"
    ) -> Self:
        """The choice for one object, or several; see :func:`oracle_map`."""
        ids = (object_id,) if isinstance(object_id, int) else tuple(object_id)
        own = competing_parts(ids, vocabulary, rule)
        if not own:
            raise ValueError(f"object {ids[0]} of the vocabulary {vocabulary.name!r} has no parts to choose among")
        place, device = {part: channel for channel, part in enumerate(scores.class_ids)}, scores.logits.device
        parts = own if rule != "zero_others" else tuple(range(len(vocabulary.parts)))
        missing = [vocabulary.parts[part] for part in parts if part not in place]
        if missing:
            raise ValueError(f"the scores lack {', '.join(missing)}; predict with class_ids that include them")
        zeroed = torch.tensor([part not in own for part in parts], device=device) if rule == "zero_others" else None
        channels = [place[part] for part in parts]
        return cls(channels, torch.tensor(parts, device=device), zeroed, scores.resized_as == "logits")

    def __call__(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Part ids of (m, n) values, or of some rows of them: int64."""
        values = values[:, _selection(self.channels)]
        values = values if rows is None else values.index_select(0, rows)
        if self.zeroed is not None:
            values = (values.sigmoid() if self.squash else values).masked_fill(self.zeroed, 0.0)
        return self.part_ids[first_maximum(values)]


@dataclass(frozen=True)
class AllChoice:
    """Which class, or the background, wins at a pixel of which nothing is known.

    Attributes:
        labels: id of each channel, background last, int64.
        background_id: the id that stands for the background.
        foreign: bool (m + 1, n), for systems that also predict objects: the channels that do not belong to each object;
            last row: no object. None otherwise.
    """

    labels: Tensor
    background_id: int
    foreign: Tensor | None

    @classmethod
    def of(cls, scores: Scores, background_id: int | None, vocabulary: Vocabulary | None) -> Self:
        """The choice for a system's scores; see :func:`pred_all_map`."""
        if background_id is None:
            if scores.class_ids != tuple(range(len(scores.class_ids))):
                raise ValueError("the scores do not hold all classes in order; say which id stands for the background")
            background_id = len(scores.class_ids)
        device, foreign = scores.logits.device, None
        if scores.objects is not None:
            if vocabulary is None:
                raise ValueError("the scores choose an object first; give the vocabulary, which knows its parts")
            owners = [vocabulary.part_to_object[part] for part in scores.class_ids]
            owners += [-2] if scores.background is not None else []  # the background belongs to no object
            foreign = torch.tensor(owners)[None] != torch.tensor((*scores.objects.class_ids, -1))[:, None]
            foreign = foreign.to(device)
        return cls(torch.tensor((*scores.class_ids, background_id), device=device), background_id, foreign)

    def __call__(self, values: Tensor, gate: Tensor | None = None, start: int = 0) -> Tensor:
        """Ids of (m, n) values at the pixels from ``start`` on: int64 (m,).

        ``gate`` is the winning object's channel at all pixels, see :func:`object_winners`.
        """
        if gate is None or self.foreign is None:
            return self.labels[first_maximum(values)]
        here = gate[start : start + len(values)]
        winner = self.labels[first_maximum(values.masked_fill(self.foreign[here], -torch.inf))]
        # An object without parts, or no object: no part can win.
        return winner.masked_fill(self.foreign.all(dim=1)[here], self.background_id)


def competing_parts(
    object_ids: Sequence[int], vocabulary: PartVocabulary, rule: OracleRule = "exact"
) -> tuple[int, ...]:
    """Parts, in label order, that may win when the objects are known; see :data:`OracleRule`."""
    if rule == "substring":
        return vocabulary.parts_naming(min(object_ids))
    return tuple(sorted({part for number in object_ids for part in vocabulary.parts_of(number)}))


def object_winners(scores: Scores, pixels: Tensor) -> Tensor | None:
    """At each pixel, the channel of the object that wins, the last for none; None for systems without objects."""
    if scores.objects is None:
        return None
    objects = replace(scores.objects, image_size=scores.image_size, covered_size=scores.covered_size)
    chunks = sampled_classes(objects, pixels, background=True)
    return torch.cat([pixels[:0], *(first_maximum(values) for _, values in chunks)])


def with_channels(scores: Scores, channels: Sequence[int]) -> Scores:
    """The same scores with some channels only, without background and objects; neighbouring ones as a view."""
    chosen = _selection(channels)
    ids = tuple(scores.class_ids[channel] for channel in channels)
    field = "logits" if scores.class_weights is None else "class_weights"
    return replace(scores, class_ids=ids, background=None, objects=None, **{field: getattr(scores, field)[chosen]})


def _selection(channels: Sequence[int]) -> slice | list[int]:
    """What to index channels with: of neighbouring ones, which make a view, a slice."""
    first, last = channels[0], channels[-1] + 1
    return slice(first, last) if list(channels) == list(range(first, last)) else list(channels)


def sampled_classes(scores: Scores, pixels: Tensor, *, background: bool) -> Iterator[tuple[int, Tensor]]:
    """Values of all classes, and last of the background, at some pixels of the image; see :func:`sampled`.

    Of mask classification (``scores.class_weights``) the masks are resized, and the classes made of them a chunk of
    pixels at a time: resizing is linear, so that these are the values of the resized class maps, which for 847 classes
    at 640 x 2560 pixels would hold 5.5 GB.
    """
    maps = [scores.logits]
    if background and scores.background is not None:
        maps.append(scores.background[None])
    probabilities = scores.resized_as == "probabilities"
    chunks = sampled(maps, pixels, scores.image_size, scores.covered_size, probabilities=probabilities)
    weights, masks = scores.class_weights, len(scores.logits)
    for start, values in chunks:
        if weights is None:
            yield start, values
            continue
        rows = max(1, CHUNK_VALUES.get(values.device.type, CHUNK_VALUES["cpu"]) // (len(weights) + 1))
        for first in range(0, len(values), rows):
            piece = values[first : first + rows]
            yield start + first, torch.cat([piece[:, :masks] @ weights.float().T, piece[:, masks:]], dim=1)


def every_pixel(scores: Scores) -> Tensor:
    """Indices of all pixels of the image, int64."""
    return torch.arange(math.prod(scores.image_size), device=scores.logits.device)

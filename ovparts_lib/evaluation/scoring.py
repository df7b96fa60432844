"""Counting one image: predictions at the pixels that any protocol looks at, joined with their labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.evaluation.boundary import LARGEST_RELEASED, class_boundary_counts, label_difference
from ovparts_lib.evaluation.label_maps import AllChoice, OracleChoice, OracleRule, object_winners, sampled_classes
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary

MODES = ("oracle_obj", "pred_all")


class NotANumberError(ValueError):
    """A system gave scores that are not finite numbers; the message names the image."""


@dataclass
class ImageScore:
    """Counts of one image, on the device of its scores.

    Attributes:
        matrices: int64 (N+1, N+1) per mode, summed over the image's records.
        background: int64 (N+1,), what was predicted on known background; None where that was not asked for.
        boundary: int64 (3, N) per mode, see :func:`ovparts_lib.evaluation.boundary.class_boundary_counts`.
        boundary_released: int64 (N+1, N+1) per mode, confusion of label-difference maps.
    """

    matrices: dict[str, Tensor]
    background: Tensor | None = None
    boundary: dict[str, Tensor] = field(default_factory=dict)
    boundary_released: dict[str, Tensor] = field(default_factory=dict)

    def add(self, other: Self) -> None:
        """Add the counts of further records, or take over those of other modes."""
        add_counts(self.matrices, other.matrices)
        add_counts(self.boundary, other.boundary)
        add_counts(self.boundary_released, other.boundary_released)
        self.background = other.background

    def count_boundaries(self, mode: str, prediction: Tensor, target: Tensor, classes: int) -> None:
        """Add the boundaries of one record: of each class, and as released, unless there are too many classes."""
        add_counts(self.boundary, {mode: class_boundary_counts(prediction, target, classes)})
        if classes <= LARGEST_RELEASED:
            differences = label_difference(prediction), label_difference(target)
            add_counts(self.boundary_released, {mode: count_pairs(*differences, classes)})


def add_counts(total: dict[str, Tensor], counts: Mapping[str, Tensor]) -> None:
    """Add counts by mode to those there are."""
    for mode, new in counts.items():
        total[mode] = total[mode] + new if mode in total else new


def score_records(
    scores: Sequence[Scores],
    sample: EvaluationSample,
    vocabulary: PartVocabulary,
    *,
    oracle_rule: OracleRule = "exact",
    boundary: bool = False,
) -> ImageScore:
    """:func:`score_image` in ``oracle_obj`` for a system whose scores depend on the record (``needs_regions``).

    Args:
        scores: one for each of the sample's regions.
        sample: the image's labels and records.
        vocabulary: the vocabulary of both.
        oracle_rule: how the known object restricts the parts.
        boundary: also count boundaries.
    """
    total = ImageScore({})
    for record, region in zip(scores, sample.regions, strict=True):
        alone = replace(sample, regions=(region,))
        total.add(score_image(record, alone, vocabulary, ("oracle_obj",), oracle_rule=oracle_rule, boundary=boundary))
    return total


def score_image(
    scores: Scores,
    sample: EvaluationSample,
    vocabulary: PartVocabulary,
    modes: Sequence[str] = MODES,
    *,
    oracle_rule: OracleRule = "exact",
    strict: bool = False,
    boundary: bool = False,
) -> ImageScore:
    """Confusion counts of one image, summed over its records.

    The ground truth of a record is the part map inside its object. Its labelled pixels are counted with their
    predictions; all other pixels of the image go to [N, N]. Scores are resized at the pixels that count, no others.

    Args:
        scores: what the system says about the image.
        sample: the image's labels and records.
        vocabulary: the vocabulary of both.
        modes: what to count.
        oracle_rule: how the known object restricts the parts.
        strict: also count what is predicted in ``pred_all`` where no object of any kind is.
        boundary: also count boundaries.

    Raises:
        ValueError: a label lies outside the vocabulary, or scores and labels are of different sizes.
        NotANumberError: the scores contain NaN or infinities.
    """
    classes, device = len(vocabulary.parts), scores.logits.device
    check_scores(scores, sample.part_map, sample.image_id)
    part_map = to_target(sample.part_map.to(device), classes, vocabulary.ignore_label)
    labels = part_map.view(-1)
    records = list(_labelled_pixels(sample, part_map, classes))
    free = _known_background(sample, part_map, vocabulary) if strict and "pred_all" in modes else None
    pixels, place = _union(records, free, labels)
    places = [place[record] for record in records]
    everywhere, found = _winners(scores, vocabulary, modes, pixels, places, sample, oracle_rule)
    target = torch.cat([labels[:0], *(labels[record] for record in records)])
    unlabelled = len(records) * labels.numel() - target.numel()
    result = ImageScore({})
    for mode in modes:
        counts = count_pairs(torch.cat([labels[:0], *found[mode]]), target, classes)
        counts[classes, classes] += unlabelled
        result.matrices[mode] = counts
        for record, winners in zip(records, found[mode], strict=True) if boundary else ():
            truth = torch.full_like(part_map, classes, dtype=torch.int32)
            predicted = truth.clone()
            truth.view(-1)[record] = labels[record].int()
            predicted.view(-1)[record] = winners.int()
            result.count_boundaries(mode, predicted, truth, classes)
    if free is not None:
        result.background = torch.bincount(everywhere[place[free]], minlength=classes + 1)
    return result


def count_pairs(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Confusion matrix of one picture, int64 (N+1, N+1) on the prediction's device.

    Args:
        prediction: integer tensor of any shape, 0..N; N = background.
        target: integer tensor of the same shape, 0..N; N = no label (see :func:`to_target` for label
            maps with another ignore value).
        classes: N.

    Raises:
        ValueError: shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    side = classes + 1
    # The product overflows narrow integers, so it is taken in int64.
    pairs = prediction.reshape(-1).long() * side + target.to(prediction.device).reshape(-1)
    return torch.bincount(pairs, minlength=side * side).reshape(side, side)


def to_target(label_map: Tensor, classes: int, ignore_label: int) -> Tensor:
    """A label map with its ignore label replaced by ``classes``, the index of unlabelled pixels in a confusion matrix.

    Raises:
        ValueError: a label is neither a class nor the ignore label.
    """
    target = label_map.masked_fill(label_map == ignore_label, classes)
    if target.numel():
        low, high = (int(value) for value in torch.aminmax(target))
        if low < 0 or high > classes:
            known = f"0..{classes - 1} and {ignore_label} (no label)"
            raise ValueError(f"the ground truth holds the label {low if low < 0 else high}; labels are {known}")
    return target


def check_scores(scores: Scores, label_map: Tensor, image_id: str) -> None:
    """Raise if scores and labels differ in size or a score is not finite; see :func:`score_image`."""
    if tuple(scores.image_size) != tuple(label_map.shape):
        sizes = f"{tuple(scores.image_size)}, the labels of {tuple(label_map.shape)} (height, width)"
        raise ValueError(f"image {image_id}: the scores are for an image of {sizes}")
    channels = [scores.logits, scores.background, scores.class_weights]
    if scores.objects is not None:
        channels += [scores.objects.logits, scores.objects.background]
    for channel in channels:
        # A sum passes on what is not finite, in a single pass over memory; one that only overflows is looked at again.
        if channel is not None and not bool(channel.sum().isfinite()) and not bool(channel.isfinite().all()):
            what = "NaN" if bool(channel.isnan().any()) else "infinities"
            advice = "check the weights, or evaluate with precision 32-true"
            raise NotANumberError(f"image {image_id}: the model's scores contain {what}, {advice}")


def _labelled_pixels(sample: EvaluationSample, part_map: Tensor, classes: int) -> Iterator[Tensor]:
    """For each record, the indices of its labelled pixels, ascending."""
    width = part_map.shape[1]
    for region in sample.regions:
        inside = region.mask.to(part_map.device) & (part_map[region.box] < classes)
        rows, columns = inside.nonzero(as_tuple=True)
        yield (rows + region.top) * width + columns + region.left


def _known_background(sample: EvaluationSample, part_map: Tensor, vocabulary: PartVocabulary) -> Tensor:
    """Indices of pixels without an object of any kind, a part or a record, ascending."""
    free = sample.object_map.to(part_map.device) == vocabulary.ignore_label
    free &= part_map == len(vocabulary.parts)
    for region in sample.regions:
        free[region.box] &= ~region.mask.to(part_map.device)
    return free.view(-1).nonzero()[:, 0]


def _union(records: Sequence[Tensor], free: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of all pixels that count for anything, ascending, and for each pixel its place among them."""
    wanted = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    for pixels in (*records, free):
        if pixels is not None:
            wanted[pixels] = True
    return wanted.nonzero()[:, 0], wanted.cumsum(0) - 1


def _winners(
    scores: Scores,
    vocabulary: PartVocabulary,
    modes: Sequence[str],
    pixels: Tensor,
    places: Sequence[Tensor],
    sample: EvaluationSample,
    rule: OracleRule,
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Winner at every sampled pixel when no object is known, and per mode the winners at each record's pixels.

    ``places`` says where each record's pixels are among those sampled.
    """
    everything, oracle = "pred_all" in modes, "oracle_obj" in modes
    overall = torch.empty(len(pixels) if everything else 0, dtype=torch.int64, device=pixels.device)
    owned = [torch.empty_like(place) for place in places] if oracle else []
    choice = AllChoice.of(scores, len(vocabulary.parts), vocabulary) if everything else None
    gate = object_winners(scores, pixels) if everything else None
    choices = [OracleChoice.of(scores, region.object_id, vocabulary, rule) for region in sample.regions if oracle]
    ordered = [place.cpu().numpy() for place in places] if oracle else []
    for start, values in sampled_classes(scores, pixels, background=everything):
        stop = start + len(values)
        if choice is not None:
            overall[start:stop] = choice(values, gate, start)
        for choose, place, bounds, winner in zip(choices, places, ordered, owned, strict=False):
            low, high = np.searchsorted(bounds, (start, stop)).tolist()
            if low < high:
                winner[low:high] = choose(values, place[low:high] - start)
    found = {"oracle_obj": owned} if oracle else {}
    return overall, found | ({"pred_all": [overall[place] for place in places]} if everything else {})

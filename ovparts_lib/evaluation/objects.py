"""Object-level evaluation: the same counts over whole objects, one record per image."""

from __future__ import annotations

import torch
from torch import Tensor

from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.evaluation.boundary import LARGEST_RELEASED, class_boundary_counts, label_difference
from ovparts_lib.evaluation.counts import count_pairs
from ovparts_lib.evaluation.label_maps import object_winners, pred_all_map
from ovparts_lib.evaluation.scoring import ImageScore, check_scores, to_target
from ovparts_lib.systems.scores import PartScores
from ovparts_lib.vocabularies.vocabulary import Vocabulary


def object_vocabulary(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary of an object-level matrix: its "parts" are whole objects.

    Args:
        vocabulary: of a part dataset, whose objects with parts become the classes, in alphabetical order (as
            part-catseg evaluates objects); or one of whole objects already, which is returned as it is.
    """
    if set(vocabulary.parts) == set(vocabulary.objects):
        return vocabulary
    names = vocabulary.objects_with_parts
    return Vocabulary(
        name=f"{vocabulary.name}_objects",
        parts=names,
        objects=names,
        unseen_objects=frozenset(vocabulary.unseen_objects & set(names)),
        ignore_label=vocabulary.ignore_label,
        title=f"{vocabulary.title}, objects" if vocabulary.title else "",
    )


def object_target(object_map: Tensor, vocabulary: Vocabulary, objects: Vocabulary) -> Tensor:
    """An object map in ids of the vocabulary, turned into ids of the object vocabulary; others become "nothing".

    Objects without parts are no classes, so their pixels are unlabelled (as part-catseg evaluates objects).

    Raises:
        ValueError: a label is no object of the vocabulary.
    """
    known = to_target(object_map, len(vocabulary.objects), vocabulary.ignore_label)
    places = {name: place for place, name in enumerate(objects.parts)}
    table = [places.get(name, len(places)) for name in vocabulary.objects]
    return torch.tensor([*table, len(places)], device=object_map.device)[known]


def score_objects(
    scores: PartScores, sample: EvaluationSample, vocabulary: Vocabulary, objects: Vocabulary, *, boundary: bool = False
) -> ImageScore:
    """Confusion counts of one image over objects: every pixel, column N with what was predicted there.

    Args:
        scores: of a system that says objects (``scores.objects``), or over a vocabulary of whole objects.
        sample: its object map is the ground truth.
        vocabulary: the vocabulary of both.
        objects: :func:`object_vocabulary` of it.
        boundary: also count boundaries.

    Raises:
        ValueError: the system does not say objects, or sizes or labels are wrong.
        NotANumberError: the scores contain NaN or infinities.
    """
    check_scores(scores, sample)
    classes = len(objects.parts)
    target = object_target(sample.object_map.to(scores.logits.device), vocabulary, objects)
    prediction = _object_map(scores, vocabulary, objects)
    result = ImageScore({"pred_all": count_pairs(prediction, target, classes)})
    if boundary:
        # As released: where the ground truth is unlabelled there is a boundary towards "nothing".
        result.boundary["pred_all"] = class_boundary_counts(prediction, target, classes)
        if classes <= LARGEST_RELEASED:
            pair = label_difference(prediction), label_difference(target)
            result.boundary_released["pred_all"] = count_pairs(*pair, classes)
    return result


def _object_map(scores: PartScores, vocabulary: Vocabulary, objects: Vocabulary) -> Tensor:
    if scores.objects is None:
        if objects is not vocabulary:
            raise ValueError("this system does not say objects, so it cannot be evaluated on them")
        return pred_all_map(scores, len(objects.parts))
    places = {name: place for place, name in enumerate(objects.parts)}
    table = [places.get(vocabulary.objects[one], len(places)) for one in scores.objects.object_ids]
    height, width = scores.image_size
    pixels = torch.arange(height * width, device=scores.logits.device)
    winners = object_winners(scores, pixels)
    return torch.tensor([*table, len(places)], device=pixels.device)[winners].view(height, width)

"""Object-level evaluation: the class of every pixel of an image, which is one record."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.evaluation.label_maps import every_pixel, object_winners, pred_all_map
from ovparts_lib.evaluation.scoring import ImageScore, check_scores, count_pairs, to_target
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary


def object_target(object_map: Tensor, vocabulary: PartVocabulary) -> Tensor:
    """An object map in ids of ``vocabulary.whole_objects``, whose number stands for unlabelled pixels.

    Objects without parts are no classes, so their pixels are unlabelled (as part-catseg evaluates objects).

    Raises:
        ValueError: a label is no object of the vocabulary.
    """
    known = to_target(object_map, len(vocabulary.objects), vocabulary.ignore_label)
    return _whole_object_ids(range(len(vocabulary.objects)), vocabulary).to(object_map.device)[known]


def score_objects(
    scores: Scores, sample: EvaluationSample, vocabulary: Vocabulary, *, boundary: bool = False
) -> ImageScore:
    """Confusion counts of one image: every pixel, column N (unlabelled) with what was predicted there.

    Args:
        scores: over classes; of a part vocabulary from a system that also predicts objects.
        sample: its object map is the ground truth.
        vocabulary: of both. A :class:`PartVocabulary` is scored over its ``whole_objects``.
        boundary: also count boundaries.

    Raises:
        ValueError: the system does not predict objects of parts, or sizes or labels are wrong.
        NotANumberError: the scores contain NaN or infinities.
    """
    of_parts, device = isinstance(vocabulary, PartVocabulary), scores.logits.device
    labels = sample.object_map.to(device)
    check_scores(scores, labels, sample.image_id)
    if of_parts:
        classes, target = len(vocabulary.objects_with_parts), object_target(labels, vocabulary)
        prediction = _object_map(scores, vocabulary)
    else:
        classes = len(vocabulary.classes)
        target, prediction = to_target(labels, classes, vocabulary.ignore_label), pred_all_map(scores, classes)
    result = ImageScore({"pred_all": count_pairs(prediction, target, classes)})
    if boundary:
        # As released: where the ground truth is unlabelled there is a boundary towards the background.
        result.count_boundaries("pred_all", prediction, target, classes)
    return result


def _object_map(scores: Scores, vocabulary: PartVocabulary) -> Tensor:
    if scores.objects is None:
        raise ValueError("this system does not predict objects, so it cannot be evaluated on them")
    winners = object_winners(scores, every_pixel(scores))
    return _whole_object_ids(scores.objects.class_ids, vocabulary).to(winners.device)[winners].view(scores.image_size)


def _whole_object_ids(objects: Sequence[int], vocabulary: PartVocabulary) -> Tensor:
    """Ids in ``vocabulary.whole_objects`` of objects, and last their number, which objects without parts get too."""
    count = len(vocabulary.objects_with_parts)
    ranks = [vocabulary.object_to_object_with_parts[number] for number in objects]
    return torch.tensor([*(count if rank is None else rank for rank in ranks), count])

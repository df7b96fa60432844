"""Where the error is: annotated masks leave the naming to the system, annotated names leave it the masks.

Both ablations use the ground truth and are no predictions; they are scored like the oracle-obj mode they belong to.
"""

import torch
from torch import Tensor

from ovparts_lib.data.dataset import EvaluationSample, ObjectRegion
from ovparts_lib.images import resize_labels
from ovparts_lib.models.maskformer.matching import joined_inputs
from ovparts_lib.systems.scores import Scores
from ovparts_lib.systems.zsseg_plus.ensemble import allowed_classes, region_map
from ovparts_lib.systems.zsseg_plus.inference import (
    PreparedImage,
    join_stages,
    name_regions,
    prepare_image,
    resized_mask,
)
from ovparts_lib.systems.zsseg_plus.model import ZssegPlus
from ovparts_lib.systems.zsseg_plus.proposals import DIVISOR, class_map
from ovparts_lib.vocabularies import PartVocabulary


@torch.inference_mode()
def oracle_ablations(model: ZssegPlus, sample: EvaluationSample, vocabulary: PartVocabulary) -> dict[str, list[Scores]]:
    """Scores of an image's records with one half of the task solved.

    Args:
        model: the system.
        sample: the image, its part map and its records.
        vocabulary: of the part map.

    Returns:
        ``oracle_mask``: every annotated part is one region, which stage 1 (by its mean scores) and CLIP name: what is
        wrong is misnamed. ``oracle_class``: every region of stage 1 gets the class that most of its pixels have: what
        is wrong was missed or cut badly by the masks. Each one :class:`Scores` per record, of the object's parts.
    """
    texts = model.encode_vocabulary(vocabulary)
    prepared = prepare_image(model, sample.image)
    found: dict[str, list[Scores]] = {"oracle_mask": [], "oracle_class": []}
    for region in sample.regions:
        allowed = allowed_classes(vocabulary, region.object_id, model.class_rule)
        mask = resized_mask(region, prepared, model.label_resize)
        truth = _true_labels(model, sample, region, prepared, vocabulary)
        prompt = joined_inputs([mask[None].float()], DIVISOR)[:, 0]
        proposals = model.propose(prepared.features, prompt, last_only=True)
        probabilities = model.class_logits(proposals.class_embeddings[-1, 0], texts).softmax(-1)[:, :-1]
        labels, scores = class_map(
            probabilities, proposals.mask_logits[-1, 0], prepared.size, prepared.padded_size, allowed
        )
        # annotated masks: naming alone
        inside = truth.masked_fill(~mask, len(vocabulary.parts))
        means = _region_means(scores, inside)
        naming = name_regions(model, prepared.pixels, inside, mask, texts, vocabulary, allowed)
        clip = region_map(inside, naming.region_ids, naming.probabilities)
        named = means if model.ensemble == "stage1" else join_stages(model, means, clip, vocabulary, allowed)
        found["oracle_mask"].append(Scores(named, allowed, None, prepared.image_size))
        # annotated names: masks alone
        classes = _majority(labels, truth, mask, vocabulary)
        onehot = torch.stack([classes == number for number in allowed]).float()
        found["oracle_class"].append(Scores(onehot, allowed, None, prepared.image_size))
    return found


def _true_labels(
    model: ZssegPlus, sample: EvaluationSample, region: ObjectRegion, image: PreparedImage, vocabulary: PartVocabulary
) -> Tensor:
    """The record's part map at the size of stage 1, int64 (h, w); ``len(parts)`` where there is no label."""
    whole = torch.full_like(sample.part_map, len(vocabulary.parts))
    whole[region.box] = torch.where(region.mask, sample.part_map[region.box], len(vocabulary.parts))
    whole[whole == vocabulary.ignore_label] = len(vocabulary.parts)
    return resize_labels(whole, image.size, model.label_resize).to(image.pixels.device)


def _region_means(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores (k, h, w) replaced by their mean over the region that a pixel is in."""
    flat = labels.flatten()
    pixels = torch.bincount(flat).clamp(min=1)
    sums = scores.new_zeros(len(scores), len(pixels)).index_add_(1, flat, scores.flatten(1))
    return (sums / pixels)[:, labels]


def _majority(labels: Tensor, truth: Tensor, mask: Tensor, vocabulary: PartVocabulary) -> Tensor:
    """For each pixel, the true class that is most frequent in its region inside the object; -1 without any."""
    count = len(vocabulary.parts)
    labelled = mask & (truth < count)
    table = torch.bincount(labels[labelled] * count + truth[labelled], minlength=count * count).view(count, count)
    winners = torch.where(table.any(1), table.argmax(1), -1)
    return winners[labels].masked_fill(~mask, -1)

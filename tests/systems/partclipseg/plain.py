"""PartCLIPSeg's losses in their plainest form: one-hot maps, whole attention matrices, loops; easy to check."""

import torch
import torch.nn.functional as F


def bce_mean(logits, targets, weights, mask):
    """Mean over the masked pixels and all channels, or 0; logits and targets (n, h, w), weights (n,)."""
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weights[:, None, None]
    return terms[:, mask].mean() if mask.any() else logits.sum() * 0


def released_losses(pair_logits, own_logits, attention, parts, objects, vocabulary, threshold=0.3):
    """Unweighted terms of one image by the released rules.

    Args:
        pair_logits: (T + 1, s, s).
        own_logits: (P + O + 1, s, s).
        attention: (P + O + 1, t, t), mean over heads.
        parts: int64 (s, s), -1 for none.
        objects: int64 (s, s), number in objects_with_parts, -1 for none.
        vocabulary: of the ids.
        threshold: of the stretched maps.
    """
    generics, owners = vocabulary.part_to_generic, vocabulary.object_to_object_with_parts
    count, generic_count = len(vocabulary.parts), len(vocabulary.generic_parts)
    object_count = len(vocabulary.objects_with_parts)
    ranks = [owners[number] for number in vocabulary.part_to_object]
    labelled, outside = parts >= 0, objects < 0
    y_pair = torch.stack([parts == part for part in range(count)] + [outside]).float()
    y_part = torch.stack(
        [sum((parts == part) for part in range(count) if generics[part] == k) for k in range(generic_count)]
    ).float()
    y_object = torch.stack([objects == k for k in range(object_count)] + [outside]).float()
    weights = torch.ones(count + 1)
    weights[-1] = 0.05
    pair = bce_mean(pair_logits, y_pair, weights, labelled)
    if not outside.all():
        pair = pair + bce_mean(pair_logits, y_pair, weights, outside)
    part = bce_mean(own_logits[:generic_count], y_part, torch.ones(generic_count), labelled)
    weights = torch.ones(object_count + 1)
    weights[-1] = 0.05
    everywhere = torch.ones_like(outside)
    obj = bce_mean(own_logits[generic_count:], y_object, weights, everywhere)

    side = round((attention.shape[-1] - 1) ** 0.5)
    step = len(parts) // side
    small_pair, small_object = y_pair[:, ::step, ::step], y_object[:, ::step, ::step]
    present = parts[labelled].unique().tolist()
    with_ignore = torch.where(objects < 0, 10**6, objects).unique().tolist()
    separation, enhancement, number = torch.zeros(()), torch.zeros(()), 0
    for owner in with_ignore[:-1]:
        if not present:
            continue
        number += 1
        total, peaks = torch.zeros(side, side), []
        for j in present:
            maps = (attention[generics[j]] + attention[generic_count + ranks[j]])[1:, 1:] / 2
            mean = (maps * small_pair[j].flatten()[:, None]).mean(0).view(side, side)
            stretched = (mean - mean.min()) / (mean.max() - mean.min() + 1e-9)
            total += (smoothed(stretched) > threshold) * small_object[owner]
            peaks.append(smoothed(mean).max())
        separation += (total > 1).sum() / ((total >= 1).sum() + 1e-9)
        enhancement = enhancement + 1 - torch.stack(peaks).min().clamp(max=1)
    return pair, obj, part, separation, enhancement, number


def smoothed(image):
    """3 x 3 weighted mean, weights e^-(dx^2 + dy^2), edges reflected."""
    padded = F.pad(image[None], (1, 1, 1, 1), mode="reflect")[0]
    total = weight_sum = 0
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            weight = torch.exp(torch.tensor(-float(x * x + y * y)))
            total = total + weight * padded[1 + y : 1 + y + image.shape[0], 1 + x : 1 + x + image.shape[1]]
            weight_sum = weight_sum + weight
    return total / weight_sum

"""Objects of an image of which nothing is known: where stage 1 sees parts, and whose they are.

The released system is told the object; how its published pred-all figures were made is not. The choice here: stage 1
runs once without an object's mask, the scores of an object's parts are added up to the object's score, and CLIP's dense
features of the whole image join in naming it, by the same product as in stage 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.systems.zsseg_plus.proposals import class_map
from ovparts_lib.vocabularies import PartVocabulary

THRESHOLD = 0.5  # of the sum of all part scores, above which a pixel belongs to an object
_DOUBT = 1e-3  # so that CLIP, however sure, cannot wipe out every object that stage 1 sees
SMALLEST = 0.01  # share of the image below which an object is taken for noise


def add_up_parts(scores: Tensor, vocabulary: PartVocabulary) -> Tensor:
    """Scores (…, parts) added up to scores (…, objects)."""
    owners = torch.tensor(vocabulary.part_to_object, device=scores.device)
    return scores @ F.one_hot(owners, len(vocabulary.objects)).to(scores)


def find_objects(
    probabilities: Tensor,
    mask_logits: Tensor,
    clip_features: Tensor,
    texts: Tensor,
    vocabulary: PartVocabulary,
    size: tuple[int, int],
    padded_size: tuple[int, int],
    temperature: float,
) -> list[tuple[int, Tensor]]:
    """Which objects are where.

    Args:
        probabilities: (queries, classes), of stage 1 without an object's mask.
        mask_logits: (queries, hp / 4, wp / 4).
        clip_features: (embed_dim, gh, gw), of length 1, of the whole image.
        texts: (classes, embed_dim).
        vocabulary: of the classes.
        size: (h, w) of the image.
        padded_size: (hp, wp).
        temperature: of CLIP.

    Returns:
        Id and mask, bool (h, w), of each object; masks do not overlap.
    """
    owned = add_up_parts(probabilities, vocabulary)
    _, stage1 = class_map(owned, mask_logits, size, padded_size, range(owned.shape[1]))
    similarity = temperature * torch.einsum("dhw,cd->hwc", clip_features, texts)
    named = add_up_parts(similarity.softmax(-1), vocabulary).permute(2, 0, 1)
    clip = F.interpolate(named[None], size=size, mode="bilinear", align_corners=False)[0]
    foreground = stage1.sum(0) > THRESHOLD
    scores = stage1 * clip.clamp(min=_DOUBT)
    labels = scores.argmax(0)
    pixels = torch.bincount(labels[foreground], minlength=len(scores))
    kept = (pixels >= SMALLEST * labels.numel()).nonzero()[:, 0]
    if not len(kept):
        return []
    labels = kept[scores[kept].argmax(0)]
    return [(int(number), foreground & (labels == number)) for number in kept]

"""Search of the mask threshold and the ensemble's weight: the network once per image, the weight for free.

Source: the released search (``search_thr_ensemble_w``), which evaluates every pair from the picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovparts_lib.systems.ensemble import clip_classes, fuse_masks, geometric_ensemble, proposal_classes
from ovparts_lib.systems.ovseg.model import Ovseg
from ovparts_lib.systems.proposals import ProposalMaps
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import Vocabulary


@torch.inference_mode()
def sweep(
    model: Ovseg, image: Tensor, vocabulary: Vocabulary, thresholds: Sequence[float], weights: Sequence[float]
) -> Iterator[tuple[float, float, Scores]]:
    """Scores of an image under every threshold and weight, as :meth:`Ovseg.predict` gives them with these options.

    Masks and their classes do not depend on the threshold, and crops not on the weight: proposals are made once, crops
    are encoded once per threshold.

    Args:
        model: its other options hold.
        image: uint8 (3, H, W) RGB.
        vocabulary: two classes or more.
        thresholds: mask thresholds, each above 0 and below 1.
        weights: of CLIP in the ensemble, likewise.

    Yields:
        Threshold, weight, scores of all classes.
    """
    names = vocabulary.classes
    text, resized = model.encode_classes(names), model.resized(image)
    masks, logits = model.propose(resized, text)
    proposals = proposal_classes(logits)
    for threshold in thresholds:
        regions = model.encode_regions(resized, masks, rule=replace(model.crop_rule, threshold=threshold))
        clip = clip_classes(model.size.clip.temperature * regions.embeddings @ text.T)
        for weight in weights:
            combined = geometric_ensemble(proposals, clip, regions.valid, weight, model.without_crop)
            maps = ProposalMaps(resized, masks, proposals, clip, regions.valid, regions.boxes, combined, names)
            cut_at = threshold if model.fusion == "best_mask" else None
            yield threshold, weight, fuse_masks(maps, tuple(image.shape[-2:]), tuple(range(len(names))), cut_at=cut_at)

"""How what the proposal network and CLIP say of each mask becomes one distribution, and masks become class scores."""

import torch
from torch import Tensor

from ovparts_lib.systems.proposals import ProposalMaps
from ovparts_lib.systems.scores import Scores
from ovparts_lib.systems.shared_options import WithoutCrop

OTHERS = "others"  # the class that a single word is scored against


def proposal_classes(logits: Tensor) -> Tensor:
    """P: probabilities (k, n) of logits (k, n + 1); "no object" is dropped after the softmax, so it weighs the mask."""
    return logits.float().softmax(-1)[:, :-1]


def clip_classes(logits: Tensor) -> Tensor:
    """Q: probabilities (k, n) of logits (k, n + 1); "no object" is dropped before the softmax."""
    return logits.float()[:, :-1].softmax(-1)


def geometric_ensemble(
    proposals: Tensor, clip: Tensor, valid: Tensor, weight: float, without_crop: WithoutCrop
) -> Tensor:
    """``P^(1 - w) * Q^w`` for every mask (section 3.4 of OVSeg's paper, without its split of classes).

    Args:
        proposals: P, (k, n).
        clip: Q of the v masks with a crop, (v, n).
        valid: bool (k,), which masks have a crop.
        weight: w.
        without_crop: for masks without a pixel above the threshold, ``as_released``: Q is 1, so that the mask counts
            more than its P; ``proposals``: P.

    Returns:
        (k, n).
    """
    factors = torch.ones_like(proposals)
    factors[valid] = clip**weight
    powers = proposals ** (1 - weight)
    if without_crop == "proposals":
        powers = torch.where(valid[:, None], powers, proposals)
    return powers * factors


def only_clip(clip: Tensor, valid: Tensor) -> Tensor:
    """Q (v, n) for the masks with a crop, bool (k,), and 0 for the others: (k, n)."""
    combined = clip.new_zeros(len(valid), clip.shape[1])
    combined[valid] = clip
    return combined


def normalised_again(combined: Tensor, void: Tensor) -> Tensor:
    """The ensemble as a distribution again, the share of "no object" included, as SCAN has it for the longest lists.

    Args:
        combined: (k, n), the geometric ensemble.
        void: (k,), the proposal network's probability of "no object".

    Returns:
        (k, n).
    """
    total = combined.sum(1, keepdim=True).clamp_min(torch.finfo(combined.dtype).tiny)
    shares = combined / total * (1 - void[:, None])
    return torch.cat([shares, void[:, None]], dim=1).add(1e-8).log().softmax(-1)[:, :-1]


def best_masks(classes: Tensor, words: int) -> Tensor:
    """The released demo's choice: for each of the first ``words`` classes the mask that fits it best.

    Args:
        classes: (k, n).
        words: how many classes choose.

    Returns:
        int64, ascending, each mask once.
    """
    if not len(classes):
        return torch.zeros(0, dtype=torch.int64, device=classes.device)
    return classes[:, :words].argmax(0).unique()


def fuse_masks(
    maps: ProposalMaps,
    image_size: tuple[int, int],
    class_ids: tuple[int, ...],
    *,
    cut_at: float | None = None,
    background: bool = False,
    single: bool = False,
) -> Scores:
    """Classes of masks, summed over pixels.

    Args:
        maps: of the image.
        image_size: of the image as it was given.
        class_ids: channels wanted.
        cut_at: probability at which :func:`best_masks` are cut; None takes all masks as they are.
        background: also score pixels in none of the best masks, or of a user's own masks.
        single: the classes are one word and "others", which becomes the background.
    """
    masks, combined, none = maps.masks, maps.combined, None
    if cut_at is not None:
        chosen = best_masks(combined, 1 if maps.classes[1:] == (OTHERS,) else len(maps.classes))
        masks, combined = (masks[chosen] > cut_at).float(), combined[chosen]
    if background and (maps.proposals is None or cut_at is not None):
        # below any score that a mask gives a pixel
        none = masks.new_full(masks.shape[-2:], torch.finfo(torch.float32).tiny)
    if background and single:
        others = torch.einsum("k,khw->hw", combined[:, 1], masks)
        none = others if none is None else torch.maximum(others, none)
    weights = combined.T[list(class_ids)]
    return Scores(masks, class_ids, none, image_size, class_weights=weights, probabilities=True)

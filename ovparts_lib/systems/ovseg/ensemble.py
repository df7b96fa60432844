"""How what the proposal network and CLIP say of each mask becomes one distribution over classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Classifier = Literal["ensemble", "proposals", "clip"]
CLASSIFIERS = ("ensemble", "proposals", "clip")
WITHOUT_CROP = ("as_released", "proposals")


def proposal_classes(logits: Tensor) -> Tensor:
    """P: probabilities (k, n) of logits (k, n + 1); "no object" is dropped after the softmax, so it weighs the mask."""
    return logits.float().softmax(-1)[:, :-1]


def clip_classes(logits: Tensor) -> Tensor:
    """Q: probabilities (k, n) of logits (k, n + 1); "no object" is dropped before the softmax."""
    return logits.float()[:, :-1].softmax(-1)


def geometric_ensemble(
    proposals: Tensor,
    clip: Tensor,
    valid: Tensor,
    weight: float,
    without_crop: Literal["as_released", "proposals"] = "as_released",
) -> Tensor:
    """``P^(1 - w) * Q^w`` for every mask (section 3.4 of the paper, without its split of classes).

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

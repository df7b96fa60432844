"""How much the parts of an object overlap in attention, and how strong each is.

Choi et al., "Understanding Multi-Granularity for Open-Vocabulary Part Segmentation", NeurIPS 2024, section 3.4: what
two losses are made of there, and what can be measured of any system's attention.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# exp(-(d / (2 * 0.5))^2) for d = -1, 0, 1: the released kernel squares the 2 as well, so its sigma is 0.71, not 0.5
_WEIGHTS = torch.tensor([math.exp(-1), 1.0, math.exp(-1)])
_KERNEL = (_WEIGHTS / _WEIGHTS.sum())[:, None] * (_WEIGHTS / _WEIGHTS.sum())
_SOFTNESS = 0.05  # of the threshold, where its crossing is to have a gradient
_TINY = 1e-9


def smooth(maps: Tensor) -> Tensor:
    """Maps (m, gh, gw) under a 3 x 3 Gaussian (sigma 0.71) that sums to 1, with reflected edges."""
    kernel = _KERNEL.to(maps)[None, None]
    return F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect"), kernel)[:, 0]


def memberships(maps: Tensor, box: Tensor, threshold: float, *, soft: bool = False) -> Tensor:
    """Which patches of its object a part's attention claims.

    Each map is stretched to 0..1, smoothed, and compared with the threshold.

    Args:
        maps: (m, gh, gw), pooled attention of m parts.
        box: bool (gh, gw) or (m, gh, gw), where the object is; nothing outside is claimed.
        threshold: 0..1.
        soft: the probability (a sigmoid around the threshold), which has a gradient, instead of yes or no.

    Returns:
        float (m, gh, gw), 0..1.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    stretched = smooth((maps - low) / (high - low + _TINY))
    claimed = torch.sigmoid((stretched - threshold) / _SOFTNESS) if soft else (stretched > threshold).to(maps.dtype)
    return claimed * box


def overlap(claims: Tensor) -> Tensor:
    """Patches that two parts or more claim, as a share of those that at least one claims.

    Args:
        claims: (m, gh, gw), yes or no as 1 and 0, or independent probabilities, of which it takes expected counts.

    Returns:
        scalar, 0..1; 0 where nothing is claimed.
    """
    none, one, more = torch.ones_like(claims[0]), torch.zeros_like(claims[0]), torch.zeros_like(claims[0])
    for claim in claims:  # sums only: 1 - none - one would be all rounding error where claims are faint
        more = more + one * claim
        one = one * (1 - claim) + none * claim
        none = none * (1 - claim)
    return more.sum() / ((one + more).sum() + _TINY)


def strength(maps: Tensor) -> Tensor:
    """Peak of each smoothed map, (m, gh, gw) -> (m,)."""
    return smooth(maps).amax((1, 2))

"""The second of SCAN's two rules by which proposals' and CLIP's classes are combined; the first is OVSeg's."""

from __future__ import annotations

import torch
from torch import Tensor


def normalised_again(combined: Tensor, void: Tensor) -> Tensor:
    """The ensemble as a distribution again, the share of "no object" included, as for ADE20K-847 and PC-459.

    Args:
        combined: (k, n), the geometric ensemble.
        void: (k,), the proposal network's probability of "no object".

    Returns:
        (k, n).
    """
    total = combined.sum(1, keepdim=True).clamp_min(torch.finfo(combined.dtype).tiny)
    shares = combined / total * (1 - void[:, None])
    return torch.cat([shares, void[:, None]], dim=1).add(1e-8).log().softmax(-1)[:, :-1]

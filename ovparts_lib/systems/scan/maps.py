"""What SIM and CS did, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class CalibrationMaps:
    """What of SCAN's predictions for one image the proposals and classes do not tell.

    Attributes:
        before: float32 (k, n), probabilities of the proposals' classes before SIM.
        after: float32 (k, n), after it.
        kept: bool (v, grid^2), patches of the v crops that hold any of the mask; None where there are no crops.
        shifted: bool (v, grid^2) by block, patches that CS overwrote after it.
        grid: patches along a side of a crop.
    """

    before: Tensor
    after: Tensor
    kept: Tensor | None
    shifted: dict[int, Tensor]
    grid: int

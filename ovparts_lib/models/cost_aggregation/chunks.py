"""Running what is independent between classes, or between positions, a piece at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Chunks:
    """How much is computed at once; bounds memory and changes no result.

    Attributes:
        tokens: positions x classes x images held at once inside a block; at least one class, or position, is.
        recompute: where gradients are wanted, keep no activations inside a chunk but compute them a second time in the
            backward pass.
    """

    tokens: int = 8192
    recompute: bool = False

    def over(self, function: Callable[..., Tensor], *tensors: Tensor, tokens: int) -> Tensor:
        """``function(*tensors)`` for a function that treats the entries of dimension 1 independently.

        Args:
            function: takes pieces of the tensors, cut along dimension 1, and returns a tensor with that dimension.
            *tensors: of equal length in dimension 1.
            tokens: what one entry of dimension 1 counts.

        Returns:
            The pieces' results, joined along dimension 1.
        """
        step = max(1, self.tokens // tokens)
        pieces = zip(*(tensor.split(step, dim=1) for tensor in tensors), strict=True)
        if self.recompute and torch.is_grad_enabled():
            results = [checkpoint(function, *piece, use_reentrant=False) for piece in pieces]
        else:
            results = [function(*piece) for piece in pieces]
        return results[0] if len(results) == 1 else torch.cat(results, dim=1)


DEFAULT_CHUNKS = Chunks()

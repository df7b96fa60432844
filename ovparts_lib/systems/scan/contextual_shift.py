"""CS: while CLIP looks at a masked crop, some of its blank tokens are overwritten with the whole image's class token.

Section 3.3 of the paper. The crop alone lacks its surroundings, and CLIP has never seen blank ones; the class token of
the image, taken after the same block, is context of the right distribution.
"""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.models.clip.towers import AfterBlock

Shifted = dict[int, Tensor]  # bool (n, patches) by block: tokens that are overwritten after it


def draw_shifted(kept: Tensor, blocks: Collection[int], ratio: float, generator: torch.Generator) -> Shifted:
    """Background tokens of each crop that CS overwrites, drawn anew for every block, evenly and without repetition.

    Args:
        kept: bool (n, patches), patches that hold any of the mask; never overwritten.
        blocks: after which tokens are overwritten.
        ratio: share of a crop's background tokens, 0..1, rounded down.
        generator: of the random numbers, on the CPU. All draws are made here, so how crops are divided into passes
            changes nothing.
    """
    counts = (ratio * (~kept).sum(1).double()).long()
    shifted = {}
    for block in blocks:
        draws = torch.rand(kept.shape, generator=generator).to(kept.device).masked_fill(kept, 2.0)
        ranks = draws.argsort(dim=1).argsort(dim=1)
        shifted[block] = ranks < counts[:, None]
    return shifted


def contextual_shift(class_tokens: Mapping[int, Tensor], shifted: Shifted, rows: Tensor | None = None) -> AfterBlock:
    """An ``after_block`` hook of :func:`models.clip.towers.image_embeddings`.

    Args:
        class_tokens: by block, the whole image's class token after it: (width,) for crops of one image, or (n, width).
        shifted: which tokens are overwritten, of :func:`draw_shifted`.
        rows: int64 (m,), the crops that are looked at; None for all.
    """

    def after_block(number: int, tokens: Tensor) -> Tensor:
        if number not in shifted:
            return tokens
        context = class_tokens[number].to(tokens.dtype).unsqueeze(-2)
        chosen = shifted[number] if rows is None else shifted[number][rows]
        return torch.where(F.pad(chosen, (1, 0))[..., None], context, tokens)

    return after_block

"""What a system says about one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class AttentionMaps:
    """Self-attention of one image, softmax weights; rows are the asking tokens, token 0 is the class token.

    Attributes:
        grid: patches (gh, gw); the other t - 1 = gh * gw tokens are theirs in row-major order.
        decoder: ``{layer: (n, heads, t, t)}`` for the n ``queries``; layers count from 0, as in the checkpoint.
        clip: ``{block: (heads, t, t)}`` of the image tower; blocks count from 1.
        queries: the texts of the n queries.
    """

    grid: tuple[int, int]
    decoder: dict[int, Tensor]
    clip: dict[int, Tensor]
    queries: tuple[str, ...]


@dataclass
class PartScores:
    """Scores of one image at the model's own resolution.

    Attributes:
        logits: float32 (n, h, w), one channel per entry of ``part_ids``.
        part_ids: indices of the channels in the vocabulary's parts.
        background: float32 (h, w), logit of "none of the parts"; None where it was not asked for or does not exist.
        image_size: (height, width) of the image as it was given.
        attention: None unless asked for.
    """

    logits: Tensor
    part_ids: tuple[int, ...]
    background: Tensor | None
    image_size: tuple[int, int]
    attention: AttentionMaps | None = None

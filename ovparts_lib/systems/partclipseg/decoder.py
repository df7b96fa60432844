"""The decoder of PartCLIPSeg: CLIPSeg's, and a second FiLM and head that join a part's features with its object's."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovparts_lib.models.film_decoder import FilmDecoder, QuerySize


class PartclipsegDecoder(FilmDecoder):
    """CLIPSeg's decoder with a pair stage.

    A part's features and its object's are joined by one linear layer, scaled and shifted by a projection of their two
    texts, and brought to pixels by a head of their own. The scaling, the shifting and the head begin as copies of
    CLIPSeg's (:meth:`copy_to_pairs`).

    Args:
        size: hyper-parameters.
    """

    def __init__(self, size: QuerySize) -> None:
        super().__init__(size)
        condition_width, width = size.clip.embed_dim, size.reduce_dim
        self.pair_mix = nn.Linear(2 * width, width)
        self.pair_text = nn.Linear(2 * condition_width, condition_width)
        for layer in (self.pair_mix, self.pair_text):
            nn.init.zeros_(layer.bias)
        self.pair_film_mul = copy.deepcopy(self.film_mul)
        self.pair_film_add = copy.deepcopy(self.film_add)
        self.pair_head = copy.deepcopy(self.head)

    def copy_to_pairs(self) -> None:
        """Set the pair stage's FiLM and head to what CLIPSeg's are now; they are separate parameters all the same."""
        self.pair_film_mul.load_state_dict(self.film_mul.state_dict())
        self.pair_film_add.load_state_dict(self.film_add.state_dict())
        self.pair_head.load_state_dict(self.head.state_dict())

    def mix(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves of the linear layer that joins features, each applied once per query instead of per pair.

        Args:
            features: (b, n, p, width), patches of each query.

        Returns:
            What each query contributes as a part, and as an object, both like ``features``; a pair's is the sum.
        """
        as_part, as_object = self.pair_mix.weight.chunk(2, dim=1)
        return F.linear(features, as_part, self.pair_mix.bias), F.linear(features, as_object)

    def pair_conditions(self, objects: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (m, width) of pairs, from the texts (m, condition_width) in their object and part slots."""
        condition = self.pair_text(torch.cat([objects, parts], dim=1))
        return self.pair_film_mul(condition), self.pair_film_add(condition)

    def pair_logits(self, mixed: Tensor, scale: Tensor, shift: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits (b, m, h, w) of pairs from their joined features (b, m, p, width), scales and shifts (m, width)."""
        return self.map_logits(self.pair_head, scale[:, None] * mixed + shift[:, None], grid)

    @staticmethod
    def map_logits(head: nn.Module, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """One of the two heads on features (b, n, p, width) -> logits (b, n, h, w)."""
        return head(features.flatten(0, 1), grid).unflatten(0, features.shape[:2])

"""The token embeddings that MiniClip trains: those of the words its captions use."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.models.clip.text import encode_token_embeddings, first_end, tokenize


class TokenRows:
    """Of CLIP's 49408 token embeddings those that captions use: only these are trained, and moved, at all.

    The rows of other tokens become zero: a word that no caption has says nothing but its place in the sentence.
    """

    def __init__(self, clip: open_clip.CLIP, texts: Sequence[str]) -> None:
        self.clip, self.context = clip, clip.context_length
        self.tokens = known_tokens(texts)
        table = clip.token_embedding.weight.detach()
        self.rows = nn.Parameter(table[self.tokens.to(table.device)].clone())
        self._places = torch.full((len(table),), -1)
        self._places[self.tokens] = torch.arange(len(self.tokens))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings (n, embed_dim)."""
        tokens = tokenize(texts, self.context)
        device = self.rows.device
        # F.embedding, because the gradient of indexing is added up in the threads' order
        embedded = F.embedding(self._places[tokens].to(device), self.rows)
        embedded = embedded + self.clip.positional_embedding[: tokens.shape[1]]
        return F.normalize(encode_token_embeddings(self.clip, embedded, first_end(tokens).to(device)), dim=-1)

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the trained rows where they belong, and zero in the others."""
        table = self.clip.token_embedding.weight
        table.zero_()
        table[self.tokens.to(table.device)] = self.rows


def known_tokens(texts: Sequence[str]) -> Tensor:
    """Ascending numbers of all tokens of the texts, and of padding, int64 (n,)."""
    padding = torch.zeros(1, dtype=torch.long)
    return torch.cat([padding, *(tokenize([text]).flatten() for text in texts)]).unique()

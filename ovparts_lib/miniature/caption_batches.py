"""The captions of MiniClip's pictures as batches of tokens, and which caption is true of which picture."""

from collections.abc import Sequence

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.miniature.pictures import Topic
from ovparts_lib.models.clip.text import encode_token_embeddings, first_end, tokenize

WHOLE = ("scene", "object")  # kinds whose captions tell more than the name of what is shown


class CaptionBatches:
    """Token ids of all captions, compacted: of CLIP's 49408 rows only those in use are trained, and moved, at all.

    Args:
        captions: of each picture or region, equally many each.
        topics: of each.
        clip: whose text tower encodes them.
    """

    def __init__(self, captions: Sequence[tuple[str, ...]], topics: Sequence[Topic], clip: open_clip.CLIP) -> None:
        self.each, self._clip = len(captions[0]), clip
        texts: dict[str, int] = {}
        meanings: dict[object, int] = {}
        spoken, keys = [], []
        for told, (kind, name, part) in zip(captions, topics, strict=True):
            for caption in told:
                about = caption if kind in WHOLE else (None if caption == part else name, part)
                keys.append(meanings.setdefault(about, len(meanings)))
                spoken.append(texts.setdefault(caption, len(texts)))
        self.text_of, self.keys = torch.tensor(spoken), torch.tensor(keys)
        self.specific = torch.tensor([-1 if k in WHOLE else meanings.get((o, p), -1) for k, o, p in topics])
        self.generic = torch.tensor([-1 if p is None else meanings.get((None, p), -1) for _, _, p in topics])
        tokens = tokenize(list(texts), clip.context_length)
        self.ends = first_end(tokens)
        self.used, self.tokens = torch.unique(tokens, return_inverse=True)
        self.rows = nn.Parameter(clip.token_embedding.weight.detach()[self.used].clone())

    def draw(self, shown: Tensor, generator: torch.Generator) -> Tensor:
        """A random caption's number for each picture or region."""
        return shown * self.each + torch.randint(self.each, shown.shape, generator=generator)

    def encode(self, captions: Tensor) -> Tensor:
        """(n, embed_dim), cut to the longest of the captions."""
        texts = self.text_of[captions]
        ends = self.ends[texts]
        tokens = self.tokens[texts, : int(ends.max()) + 1].to(self.rows.device)
        # F.embedding, because the gradient of indexing is added up in the threads' order
        embeddings = F.embedding(tokens, self.rows) + self._clip.positional_embedding[: tokens.shape[1]]
        return encode_token_embeddings(self._clip, embeddings, ends.to(self.rows.device))

    def true_of(self, shown: Tensor, captions: Tensor) -> Tensor:
        """Which caption is true of which picture or region, bool (n, m).

        True are: its own, the same words, the same part of the same object (or the same stuff, or object of a region)
        in other words, and the bare name of the part it shows.

        Args:
            shown: int64 (n,).
            captions: int64 (m,), m >= n; the first n are their own, in their order.
        """
        keys = self.keys[captions]
        true = keys[: len(shown), None] == keys
        true |= (self.specific[shown][:, None] == keys) | (self.generic[shown][:, None] == keys)
        return true.fill_diagonal_(True)

    @torch.no_grad()
    def write_back(self, clip: open_clip.CLIP) -> None:
        """Put the trained rows where they belong, and zero in the others: a word no caption has says nothing."""
        table = clip.token_embedding.weight
        table.zero_()
        table[self.used.to(table.device)] = self.rows

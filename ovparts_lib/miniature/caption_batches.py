"""The captions of MiniClip's pictures as batches of tokens, and which caption is true of which picture."""

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.miniature.pictures import CaptionedPictures
from ovparts_lib.models.clip.text import encode_token_embeddings, first_end, tokenize

CLOSE_UPS = ("part", "stuff")


class CaptionBatches:
    """Token ids of all captions, compacted: of CLIP's 49408 rows only those in use are trained, and moved, at all."""

    def __init__(self, pictures: CaptionedPictures, clip: open_clip.CLIP) -> None:
        self.each = len(pictures.captions[0])
        flat = [caption for captions in pictures.captions for caption in captions]
        tokens = tokenize(flat, clip.context_length)
        self.ends, self._clip = first_end(tokens), clip
        self.used, self.tokens = torch.unique(tokens, return_inverse=True)
        self.rows = nn.Parameter(clip.token_embedding.weight.detach()[self.used].clone())
        meanings: dict[object, int] = {}
        keys = []
        for caption, (kind, name, part) in zip(flat, np.repeat(_objects(pictures.topics), self.each), strict=True):
            about = (None if caption == part else name, part) if kind in CLOSE_UPS else caption
            keys.append(meanings.setdefault(about, len(meanings)))
        self.keys = torch.tensor(keys)
        topics = pictures.topics
        self.specific = torch.tensor([meanings.get((o, p), -1) if k in CLOSE_UPS else -1 for k, o, p in topics])
        self.generic = torch.tensor([meanings.get((None, p), -1) if k == "part" else -1 for k, o, p in topics])
        close_ups = [number for number, (kind, _, _) in enumerate(topics) if kind in CLOSE_UPS]
        self._close_ups = torch.tensor(close_ups, dtype=torch.long)

    def draw(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """A random caption's number for each picture."""
        return pictures * self.each + torch.randint(self.each, pictures.shape, generator=generator)

    def draw_close_ups(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of random captions of random close-ups; none if there are no close-ups."""
        if not len(self._close_ups):
            return self._close_ups
        return self.draw(self._close_ups[torch.randint(len(self._close_ups), (count,), generator=generator)], generator)

    def picture_of(self, captions: Tensor) -> Tensor:
        """The picture that each caption was given with."""
        return captions // self.each

    def encode(self, captions: Tensor) -> Tensor:
        """(n, embed_dim), cut to the longest of the captions."""
        ends = self.ends[captions]
        tokens = self.tokens[captions, : int(ends.max()) + 1].to(self.rows.device)
        # F.embedding, because the gradient of indexing is added up in the threads' order
        embeddings = F.embedding(tokens, self.rows) + self._clip.positional_embedding[: tokens.shape[1]]
        return encode_token_embeddings(self._clip, embeddings, ends.to(self.rows.device))

    def true_of(self, pictures: Tensor, captions: Tensor) -> Tensor:
        """Which caption is true of which picture, bool (n, m).

        True are: its own, the same words, the same part of the same object (or the same stuff) in other words, and the
        bare name of the part it shows.

        Args:
            pictures: int64 (n,).
            captions: int64 (m,), m >= n; the first n are the pictures' own, in their order.
        """
        keys = self.keys[captions]
        true = keys[: len(pictures), None] == keys
        true |= (self.specific[pictures][:, None] == keys) | (self.generic[pictures][:, None] == keys)
        return true.fill_diagonal_(True)

    @torch.no_grad()
    def write_back(self, clip: open_clip.CLIP) -> None:
        """Put the trained rows where they belong, and zero in the others: a word no caption has says nothing."""
        table = clip.token_embedding.weight
        table.zero_()
        table[self.used.to(table.device)] = self.rows


def _objects(items: list) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array

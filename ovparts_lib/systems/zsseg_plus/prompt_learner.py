"""Compositional prompts of CPTCoOp and CPTCoCoOp: learned vectors before the object's name and between object and part.

A class "dog's head" is the text ``[start] P1 … P4 dog M1 … M4 head . [end]``, P and M being learned. An object
that is its own part ("wheel") is a text without M. CPTCoCoOp adds the object's image feature to every P and M.
Sources: Wei et al., OV-PARTS, NeurIPS 2023 (datasets track), and the code released with it, which does not train them.
"""

from collections.abc import Sequence
from functools import lru_cache

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.models.clip.text import END_TOKEN, START_TOKEN, PromptTooLongError, encode_token_embeddings, tokenize
from ovparts_lib.models.clip.text_cache import TextCache, text_weights

DOT_TOKEN = 269
_START, _DOT, _END, _LEARNED = 0, 1, 2, 3  # rows of the table that texts are gathered from


class PromptLearner(nn.Module):
    """The learned vectors, and the weight that fuses a part's and its object's image feature.

    The three signals are buffers because the released files bring their own; while they are zero, the text tower's
    token embeddings stand in for them.

    Args:
        width: of the text tower.
        prefix: number of vectors P before the object's name.
        connection: number of vectors M between object and part.
        conditional: CPTCoCoOp: the object's image feature is added to P and M.
    """

    def __init__(self, width: int, prefix: int = 4, connection: int = 4, *, conditional: bool = False) -> None:
        super().__init__()
        self.conditional = conditional
        self.prefix_prompt = nn.Parameter(0.02 * torch.randn(prefix, width))
        self.connect_prompt = nn.Parameter(0.02 * torch.randn(connection, width))
        self.fuse_weight = nn.Parameter(torch.zeros(()))
        for signal in ("start_signal", "dot_signal", "end_signal"):
            self.register_buffer(signal, torch.zeros(1, width))
        self._texts = TextCache(capacity=4)

    def encode(self, clip: open_clip.CLIP, pairs: Sequence[tuple[str, str]], condition: Tensor | None = None) -> Tensor:
        """Normalised text embeddings of classes, with gradient into the learned vectors.

        Args:
            clip: the model whose text tower is used.
            pairs: object and part of each class; twice the same for an object that is its own part.
            condition: (b, width), the image feature that is added to P and M; None for CPTCoOp.

        Returns:
            (pairs, embed_dim), or (b, pairs, embed_dim) with a condition.

        Raises:
            PromptTooLongError: a class does not fit between the learned vectors.
        """
        layout, ends, tokens = _layout(tuple(pairs), len(self.prefix_prompt), len(self.connect_prompt))
        if layout.shape[1] > clip.context_length:
            longest = "'s ".join(pairs[int(ends.argmax())])
            raise PromptTooLongError(
                f"the class {longest!r} takes {layout.shape[1]} tokens with its learned prompt; the text tower takes "
                f"{clip.context_length}: shorten it"
            )
        device = clip.positional_embedding.device
        layout, ends, tokens = layout.to(device), ends.to(device), tokens.to(device)
        learned = torch.cat([self.prefix_prompt, self.connect_prompt])[None]
        if condition is not None:
            learned = learned + condition[:, None]
        count = len(learned)
        fixed = [rows.expand(count, -1, -1) for rows in (self._signals(clip), clip.token_embedding(tokens))]
        table = torch.cat([fixed[0], learned, fixed[1]], dim=1)
        # one table of b x rows, because the gradient of other ways to index is added up in the threads' order
        offsets = table.shape[1] * torch.arange(count, device=device).view(-1, 1, 1)
        embeddings = F.embedding(layout + offsets, table.flatten(0, 1)) + clip.positional_embedding[: layout.shape[1]]
        texts = encode_token_embeddings(clip, embeddings.flatten(0, 1), ends.repeat(count))
        texts = F.normalize(texts.float(), dim=-1).unflatten(0, (count, len(pairs)))
        return texts[0] if condition is None else texts

    def encode_once(self, clip: open_clip.CLIP, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """:meth:`encode` without condition and gradient, for as long as no weight it depends on changes."""
        _, _, tokens = _layout(tuple(pairs), len(self.prefix_prompt), len(self.connect_prompt))
        device = clip.positional_embedding.device
        words = clip.token_embedding.weight.detach()[tokens.to(device)]
        weights = [words, *text_weights(clip)[1:], *(tensor.detach() for tensor in self.state_dict().values())]
        return self._texts.recall((tuple(pairs),), device, weights, lambda key: self.encode(clip, pairs))

    def _signals(self, clip: open_clip.CLIP) -> Tensor:
        stored = torch.cat([self.start_signal, self.dot_signal, self.end_signal])
        if stored.any():
            return stored
        return clip.token_embedding(torch.tensor([START_TOKEN, DOT_TOKEN, END_TOKEN], device=stored.device)).detach()


@lru_cache(maxsize=64)
def _layout(pairs: tuple[tuple[str, str], ...], prefix: int, connection: int) -> tuple[Tensor, Tensor, Tensor]:
    """Texts as rows of a table: signals, P, M, then the embeddings of all tokens in use.

    Returns:
        int64 (n, longest), filled up with row 0; int64 (n,), the position of each end; int64 (t,), the tokens.
    """
    words = {word: tokenize([word], 10**6)[0, 1:-1].tolist() for pair in pairs for word in pair}
    tokens = sorted({token for word in words.values() for token in word})
    place = {token: _LEARNED + prefix + connection + number for number, token in enumerate(tokens)}
    before = list(range(_LEARNED, _LEARNED + prefix))
    between = list(range(_LEARNED + prefix, _LEARNED + prefix + connection))
    rows = []
    for owner, part in pairs:
        text = [place[token] for token in words[owner]]
        if part != owner:
            text += between + [place[token] for token in words[part]]
        rows.append([_START, *before, *text, _DOT, _END])
    longest = max(map(len, rows))
    layout = torch.tensor([row + [_START] * (longest - len(row)) for row in rows])
    return layout, torch.tensor([len(row) - 1 for row in rows]), torch.tensor(tokens)

"""The CLIP text tower: tokens, sentence embeddings, and a cache that cannot go stale."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovparts_lib.models.clip.towers import transformer_block

START_TOKEN, END_TOKEN = 49406, 49407
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class PromptTooLongError(ValueError):
    """A prompt has more tokens than the text tower has positions."""


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@lru_cache(maxsize=4096)
def _tokens(prompt: str) -> tuple[int, ...]:
    return (START_TOKEN, *_tokenizer().encode(prompt), END_TOKEN)


def tokenize(prompts: Sequence[str], context_length: int = 77) -> Tensor:
    """Token ids of prompts, cut to the longest of them.

    The text tower is causal and read at the end token, so neither the kind of padding nor its length can change an
    embedding; a class list needs 7 positions where the full context has 77.

    Args:
        prompts: texts; CLIP's byte-pair vocabulary lower-cases them.
        context_length: positions of the text tower.

    Returns:
        int64 (n, longest): start token, text, end token, then zeros.

    Raises:
        ValueError: no prompts.
        PromptTooLongError: a prompt does not fit; nothing is truncated silently.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts must be a sequence of texts, not the single text {prompts!r}; write [{prompts!r}]")
    if not prompts:
        raise ValueError("there are no prompts to encode")
    rows = [list(_tokens(prompt)) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) > context_length:
            raise PromptTooLongError(
                f"the prompt {prompt!r} has {len(row)} tokens, with start and end; the text tower takes "
                f"{context_length}: shorten it"
            )
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)


def encode_text(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Sentence embeddings, neither normalised nor detached.

    Args:
        clip: the model whose text tower is used.
        tokens: int64 (n, length), each row with an end token; the first one is read.

    Returns:
        (n, embed_dim).
    """
    tokens = tokens.to(clip.positional_embedding.device)
    embeddings = clip.token_embedding(tokens) + clip.positional_embedding[: tokens.shape[1]]
    return encode_token_embeddings(clip, embeddings, first_end(tokens))


def encode_token_embeddings(clip: open_clip.CLIP, embeddings: Tensor, ends: Tensor) -> Tensor:
    """Sentence embeddings from token embeddings that already hold their positions.

    Args:
        clip: the model whose text tower is used.
        embeddings: (n, length, width).
        ends: int64 (n,), position each sentence is read at.

    Returns:
        (n, embed_dim).
    """
    for block in clip.transformer.resblocks:
        embeddings, _ = transformer_block(block, embeddings, causal=True)
    sentences = embeddings[torch.arange(len(embeddings), device=embeddings.device), ends]
    return clip.ln_final(sentences) @ clip.text_projection


def first_end(tokens: Tensor) -> Tensor:
    """Position of the first end token of each row; rows may be padded with anything, also with end tokens.

    Raises:
        ValueError: a row has no end token.
    """
    is_end = tokens == END_TOKEN
    if not bool(is_end.any(dim=1).all()):
        raise ValueError("a row of tokens has no end token, so there is no position to read its embedding at")
    return is_end.int().argmax(dim=1)


class TextCache:
    """Sentence embeddings of prompts, computed once for as long as nothing they depend on changes.

    The key holds the prompts, the autocast state, and a checksum over every bit of every weight the result depends
    on (of the token embedding, only the rows in use). So an optimiser step, a loaded state dict, a copy through
    ``.data``, or a move to another device or dtype are all noticed, whoever made them. The checksum costs one pass over
    the text tower, some 60 ms for ViT-B/16 on one CPU core: a tenth of encoding a class list, or less.
    """

    def __init__(self, capacity: int = 8) -> None:
        """Keep the embeddings of the ``capacity`` most recently used lists of prompts."""
        self.capacity = capacity
        self._entries: OrderedDict[tuple, Tensor] = OrderedDict()

    def encode(self, clip: open_clip.CLIP, prompts: Sequence[str]) -> Tensor:
        """Embeddings of the prompts, (n, embed_dim), without gradient; do not write into the result."""
        tokens = tokenize(prompts, clip.context_length)
        device = clip.positional_embedding.device
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        key = (tuple(prompts), autocast, str(device), weights_checksum(text_weights(clip, tokens)))
        if key not in self._entries:
            with torch.inference_mode(False), torch.no_grad():  # an ordinary tensor, so that training may use it too
                self._entries[key] = encode_text(clip, tokens)
        self._entries.move_to_end(key)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
        return self._entries[key]


def weights_checksum(tensors: Iterable[Tensor]) -> tuple:
    """A checksum that changes with any single element and with the order of elements, computed on the device.

    The bits are read as integers and laid out in rows of 1024; the sums of rows and the sums of columns are added up
    with fixed random factors (modulo 2^64), together with dtypes and shapes. It is no defence against an adversary.
    """
    description, sums = [], []
    for piece in _pieces([tensor.detach() for tensor in tensors]):
        description += [(str(tensor.dtype), tuple(tensor.shape)) for tensor in piece]
        words = [tensor.flatten().view(_INTEGERS[tensor.element_size()]) for tensor in piece]
        padding = words[0].new_zeros(-sum(map(len, words)) % 1024)
        table = torch.cat([*words, padding]).view(-1, 1024)
        for axis in (0, 1):
            line = table.sum(axis, dtype=torch.int64)
            sums.append((line * _factors(len(line), line.device)).sum())
    return (*description, *torch.stack(sums).tolist())


def _pieces(tensors: Sequence[Tensor], size: int = 2**22) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one element size, about ``size`` elements at a time: few kernels, little memory."""
    piece: list[Tensor] = []
    for tensor in tensors:
        alike = piece and tensor.element_size() == piece[0].element_size()
        if piece and not (alike and sum(map(torch.numel, piece)) + tensor.numel() <= size):
            yield piece
            piece = []
        piece.append(tensor)
    yield piece


@lru_cache(maxsize=16)
def _factors(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    odd = torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1  # odd, hence invertible mod 2^64
    return odd.to(device)


def text_weights(clip: open_clip.CLIP, tokens: Tensor | None = None) -> list[Tensor]:
    """The weights that embeddings of texts depend on: all of the text tower's, or only those in use.

    Args:
        clip: the model.
        tokens: int64 (n, length), the texts; None for any texts.
    """
    table, positions = clip.token_embedding.weight, clip.positional_embedding
    if tokens is not None:
        table, positions = table.detach()[tokens.unique().to(table.device)], positions[: tokens.shape[1]]
    blocks = [parameter for block in clip.transformer.resblocks for parameter in block.parameters()]
    head = [clip.ln_final.weight, clip.ln_final.bias, clip.text_projection]
    return [table, positions, *blocks, *head]

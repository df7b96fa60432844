"""The CLIP text tower: tokens, sentence embeddings, and which words it cannot tell apart."""

from collections.abc import Sequence
from functools import lru_cache
from textwrap import shorten

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovparts_lib.models.clip.towers import transformer_block

START_TOKEN, END_TOKEN = 49406, 49407


class PromptTooLongError(ValueError):
    """A prompt has more tokens than the text tower has positions."""


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@lru_cache(maxsize=4096)
def _tokens(prompt: str) -> tuple[int, ...]:
    tokens = _tokenizer().encode(prompt)
    if START_TOKEN in tokens or END_TOKEN in tokens:
        raise ValueError(f"{prompt!r} spells a special token of the text tower, which would end the text there")
    return (START_TOKEN, *tokens, END_TOKEN)


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
        ValueError: no prompts, or one that spells a special token such as ``<end_of_text>``.
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
                f"the prompt {shorten(prompt, 80)!r} has {len(row)} tokens, with start and end; the text tower takes "
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


def refuse_alike(texts: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Refuse classes that the text tower cannot tell apart: of equal scores the second class would never win.

    The tower's tokenizer ignores case, runs of blanks and forms of Unicode, so what it reads is compared, not names.

    Args:
        texts: for each class the text, or texts, that stand for it, without a template.
        names: of the classes, for the message.

    Raises:
        ValueError: two classes are one to the tower, or it reads nothing in a text.
    """
    known: dict[tuple[tuple[int, ...], ...], str] = {}
    for name, words in zip(names, texts, strict=True):
        tokens = tuple(_tokens(word) for word in words)
        if min(map(len, tokens)) == 2:
            raise ValueError(f"the text tower reads nothing in the word {name!r}")
        if tokens in known:
            read = "”, “".join(_tokenizer().decode(row[1:-1]).strip() for row in tokens)
            raise ValueError(
                f"the words {known[tokens]!r} and {name!r} are one to the text tower, which reads “{read}” for both: "
                "keep one of them"
            )
        known[tokens] = name

"""Embeddings of names in many prompt templates: each name computed once, the templates' beginnings computed once.

80 templates for 482 names are 38,560 texts. All texts of a template begin alike, and the text tower is causal, so the
keys and values of that beginning serve every name; what is left is the name and a full stop.
"""

from collections.abc import Sequence

import open_clip
import torch
import torch.nn.functional as F
from einops import rearrange
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from ovparts_lib.models.clip.text import first_end, tokenize
from ovparts_lib.models.clip.towers import transformer_block

SYNONYMS = ", "
_ROWS = 128  # texts encoded at once


def encode_with_shared_beginning(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Sentence embeddings of texts that begin alike; what :func:`models.clip.text.encode_text` gives, for less.

    Args:
        clip: the model whose text tower is used.
        tokens: int64 (n, length), each row with an end token; the first one is read.

    Returns:
        (n, embed_dim), neither normalised nor detached.
    """
    tokens = tokens.to(clip.positional_embedding.device)
    ends = first_end(tokens)
    tokens = tokens[:, : int(ends.max()) + 1]
    alike = int((tokens == tokens[:1]).all(0).int().cumprod(0).sum())
    shared = min(alike, int(ends.min()))  # every text keeps at least its end token
    positions = clip.positional_embedding
    beginning = clip.token_embedding(tokens[:1, :shared]) + positions[:shared]
    rest = clip.token_embedding(tokens[:, shared:]) + positions[shared : tokens.shape[1]]
    for block in clip.transformer.resblocks:
        rest, beginning = _continue(block, rest, beginning), transformer_block(block, beginning, causal=True)[0]
    sentences = rest[torch.arange(len(rest), device=rest.device), ends - shared]
    return clip.ln_final(sentences) @ clip.text_projection


def _continue(block: ResidualAttentionBlock, rest: Tensor, beginning: Tensor) -> Tensor:
    """One causal block on the rests (n, s, width) of texts that share one beginning (1, p, width)."""
    attention, heads = block.attn, block.attn.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    pattern = "b t (three h d) -> three b h t d"
    query, key, value = rearrange(F.linear(block.ln_1(rest), weight, bias), pattern, three=3, h=heads)
    _, first_key, first_value = rearrange(F.linear(block.ln_1(beginning), weight, bias), pattern, three=3, h=heads)
    key = torch.cat([first_key.expand(len(rest), -1, -1, -1), key], dim=2)
    value = torch.cat([first_value.expand(len(rest), -1, -1, -1), value], dim=2)
    visible = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=rest.device)
    mixed = F.scaled_dot_product_attention(query, key, value, visible.tril(beginning.shape[1]))
    rest = rest + attention.out_proj(rearrange(mixed, "b h t d -> b t (h d)"))
    return rest + block.mlp(block.ln_2(rest))


def encode_names(
    clip: open_clip.CLIP, names: Sequence[str], templates: Sequence[str], *, synonyms: bool = True
) -> Tensor:
    """Normalised embeddings of every name in every template.

    Args:
        clip: the model whose text tower is used.
        names: class names.
        templates: texts with ``{}`` where the name goes.
        synonyms: a name with ``", "`` in it is a list of synonyms (CAT-Seg): their normalised embeddings are averaged
            and normalised again. False takes every name verbatim (OVSeg).

    Returns:
        float32 (names, templates, embed_dim), of length 1 along the last dimension.

    Raises:
        ValueError: no names or no templates.
        PromptTooLongError: a name does not fit into a template.
    """
    if not names or not templates:
        raise ValueError("there are no names, or no templates, to encode")
    lists = [name.split(SYNONYMS) if synonyms else [name] for name in names]
    words = list(dict.fromkeys(word for some in lists for word in some))
    words.sort(key=lambda word: tokenize([word], 10**6).shape[1])  # neighbours of one length need little padding
    context = clip.context_length
    by_template = []
    for template in templates:
        rows = (words[start : start + _ROWS] for start in range(0, len(words), _ROWS))
        tokens = (tokenize([template.format(word) for word in some], context) for some in rows)
        by_template.append(torch.cat([encode_with_shared_beginning(clip, some) for some in tokens]))
    embeddings = F.normalize(torch.stack(by_template, dim=1).float(), dim=-1)
    place = {word: number for number, word in enumerate(words)}
    means = [embeddings[[place[word] for word in some]].mean(0) for some in lists]
    return F.normalize(torch.stack(means), dim=-1)

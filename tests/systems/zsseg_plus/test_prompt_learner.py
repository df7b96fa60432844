import open_clip
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.models.clip.text import PromptTooLongError
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.systems.zsseg_plus.prompt_learner import PromptLearner
from tests.systems.zsseg_plus.tiny import CLIP, VOCABULARY

PAIRS = (("dog", "head"), ("potted plant", "licence plate"), ("wheel", "wheel"))


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip(CLIP).eval()


def learner(**options):
    torch.manual_seed(1)
    made = PromptLearner(CLIP.text_width, 3, 2, **options)
    with torch.no_grad():
        made.prefix_prompt.normal_()
        made.connect_prompt.normal_()
    return made


def plain(clip, made, owner, part, condition=0.0):
    """The sequence written out and sent through open_clip's own text tower, at the full context length."""
    ids = open_clip.get_tokenizer("ViT-B-16")
    rows = clip.token_embedding

    def words(text):
        tokens = ids(text)[0]
        return rows(tokens[1 : int((tokens == 49407).nonzero()[0])])

    pieces = [rows(torch.tensor([49406])), made.prefix_prompt + condition, words(owner)]
    if part != owner:
        pieces += [made.connect_prompt + condition, words(part)]
    pieces += [rows(torch.tensor([269])), rows(torch.tensor([49407]))]
    sequence = torch.cat(pieces)
    length = len(sequence)
    sequence = torch.cat([sequence, rows(torch.zeros(77 - length, dtype=torch.int64))]) + clip.positional_embedding
    mask = torch.full((77, 77), float("-inf")).triu(1)
    for block in clip.transformer.resblocks:
        sequence = block(sequence[None], attn_mask=mask)[0]
    return F.normalize(clip.ln_final(sequence)[length - 1] @ clip.text_projection, dim=0)


@torch.no_grad()
def test_texts_are_what_open_clip_makes_of_the_same_sequences(clip):
    made = learner()
    found = made.encode(clip, PAIRS)
    for row, pair in zip(found, PAIRS, strict=True):
        assert torch.allclose(row, plain(clip, made, *pair), atol=1e-5)
    conditions = torch.randn(2, CLIP.text_width)
    found = made.encode(clip, PAIRS, conditions)
    for rows, condition in zip(found, conditions, strict=True):
        for row, pair in zip(rows, PAIRS, strict=True):
            assert torch.allclose(row, plain(clip, made, *pair, condition), atol=1e-5)


@torch.no_grad()
def test_signals_of_a_file_replace_the_token_embeddings(clip):
    made = learner()
    before = made.encode(clip, PAIRS)
    for signal, token in (("start_signal", 49406), ("dot_signal", 269), ("end_signal", 49407)):
        getattr(made, signal).copy_(clip.token_embedding(torch.tensor([token])))
    assert torch.allclose(made.encode(clip, PAIRS), before, atol=1e-6)
    made.dot_signal.normal_()
    assert not torch.allclose(made.encode(clip, PAIRS), before, atol=1e-3)


def test_gradients_reach_the_learned_vectors_only_where_texts_hold_them(clip):
    made = learner()
    made.encode(clip, [("wheel", "wheel")]).square()[:, 0].sum().backward()
    assert made.prefix_prompt.grad.abs().sum() > 0
    assert made.connect_prompt.grad.abs().sum() == 0


def test_texts_are_encoded_again_after_any_change_only(clip, monkeypatch):
    made = learner()
    encoded = []
    encode = PromptLearner.encode
    monkeypatch.setattr(PromptLearner, "encode", lambda *args: encoded.append(1) or encode(*args))
    first = made.encode_once(clip, VOCABULARY.pairs)
    assert torch.equal(made.encode_once(clip, VOCABULARY.pairs), first)
    assert len(encoded) == 1
    for tensor in (made.prefix_prompt, made.end_signal, clip.ln_final.bias, clip.token_embedding.weight):
        tensor.data.view(-1)[-1] += 0.5
        assert not first.requires_grad
        made.encode_once(clip, VOCABULARY.pairs)
    assert len(encoded) == 4  # the last token of the table is in no text


def test_a_class_that_does_not_fit(clip):
    with pytest.raises(PromptTooLongError, match=r"takes 8[0-9] tokens with its learned prompt"):
        learner().encode(clip, [("dog", "head"), ("wheel " * 40, "rim " * 36)])

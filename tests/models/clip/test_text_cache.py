"""The cache of text embeddings, which cannot go stale, and the checksum it rests on."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.models.clip import text_cache
from ovparts_lib.models.clip.prompted_names import encode_names
from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.models.clip.text_cache import TextCache, weights_checksum
from ovparts_lib.models.clip.towers import build_clip
from tests.systems.tiny import TINY_CLIP

PROMPTS = ("dog head", "chest of drawers apron", "bird wing")


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip(TINY_CLIP).eval()


@pytest.fixture
def counted(monkeypatch, clip):
    """A cache, a model of one's own, and the list of encodings that really happened."""
    calls = []

    def encode(clip, tokens):
        calls.append(tokens)
        return encode_text(clip, tokens)

    monkeypatch.setattr(text_cache, "encode_text", encode)
    return TextCache(capacity=2), copy.deepcopy(clip), calls


def test_the_cache_encodes_once(counted):
    cache, clip, calls = counted
    first = cache.encode(clip, PROMPTS)
    assert cache.encode(clip, list(PROMPTS)) is first
    assert len(calls) == 1
    assert not first.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(first, encode_text(clip, tokenize(PROMPTS)))


def test_the_cache_knows_prompts_and_their_order(counted):
    cache, clip, calls = counted
    first, other = cache.encode(clip, PROMPTS), cache.encode(clip, PROMPTS[::-1])
    torch.testing.assert_close(other, first.flip(0))
    assert len(calls) == 2
    cache.encode(clip, PROMPTS[:1])  # the least recently used entry makes room
    cache.encode(clip, PROMPTS)
    assert len(calls) == 4


def optimiser_step(clip):
    optimiser = torch.optim.AdamW([clip.token_embedding.weight], lr=1e-3)
    encode_text(clip, tokenize(PROMPTS)).sum().backward()
    optimiser.step()


def loaded_state(clip):
    clip.load_state_dict({name: tensor + 1e-3 for name, tensor in clip.state_dict().items()})


def one_element_through_data(clip):
    clip.transformer.resblocks[1].mlp.c_fc.weight.data[3, 5] *= 1.0001


def one_element_through_numpy(clip):
    clip.text_projection.detach().numpy()[2, 2] *= 1.0001


def swapped_rows(clip):
    weight = clip.transformer.resblocks[0].attn.in_proj_weight.data
    weight[[1, 2]] = weight[[2, 1]].clone()


def swapped_token_rows(clip):
    weight = clip.token_embedding.weight.data
    weight[[1929, 3329]] = weight[[3329, 1929]].clone()


def other_dtype(clip):
    clip.double()


@pytest.mark.parametrize(
    "change",
    [
        optimiser_step,
        loaded_state,
        one_element_through_data,
        one_element_through_numpy,
        swapped_rows,
        swapped_token_rows,
        other_dtype,
    ],
)
def test_the_cache_notices_a_change_of_weights(counted, change):
    cache, clip, _ = counted
    before = cache.encode(clip, PROMPTS)
    change(clip)
    with torch.no_grad():
        expected = encode_text(clip, tokenize(PROMPTS))
    after = cache.encode(clip, PROMPTS)
    torch.testing.assert_close(after, expected)
    assert not torch.equal(after.to(before.dtype), before)


@pytest.mark.parametrize("change", ["weight", "templates", "autocast"])
def test_names_in_templates_are_never_stale(clip, change):
    clip, cache, templates = copy.deepcopy(clip), TextCache(), ("a photo of a {}.",)
    before = cache.encode(clip, PROMPTS, templates)
    assert cache.encode(clip, list(PROMPTS), list(templates)) is before
    assert not before.requires_grad and not before.is_inference()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        if change == "weight":
            clip.transformer.resblocks[1].mlp.c_fc.weight.data[3, 5] += 1
        if change == "templates":
            templates = ("a drawing of a {}.",)
        after, expected = cache.encode(clip, PROMPTS, templates), encode_names(clip, PROMPTS, templates)
    assert torch.allclose(after, expected, atol=1e-6)
    assert not torch.equal(before[0], after[0])


def test_what_was_cached_in_inference_mode_can_be_used_in_training(counted):
    cache, clip, _ = counted
    with torch.inference_mode():
        cache.encode(clip, PROMPTS)
    scale = torch.ones(16, requires_grad=True)
    (cache.encode(clip, PROMPTS) * scale).sum().backward()
    assert scale.grad.abs().sum() > 0


def test_the_cache_tells_precisions_apart(counted):
    cache, clip, calls = counted
    exact = cache.encode(clip, PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = cache.encode(clip, PROMPTS)
    assert len(calls) == 2
    assert not torch.equal(exact, rough.float())


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.randoms(use_true_random=False),
)
def test_the_checksum_changes_with_any_element(shapes, dtype, random):
    tensors = [
        torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i, shape in enumerate(shapes)
    ]
    before = weights_checksum(tensors)
    assert weights_checksum([tensor.clone() for tensor in tensors]) == before
    changed = random.choice(tensors).view(-1)
    place = random.randrange(len(changed))
    changed[place] = -changed[place]
    assert weights_checksum(tensors) != before


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 1024), (5, 2054)])
def test_the_checksum_knows_where_an_element_is(first, second):
    tensor = torch.randn(3, 1024)
    swapped = tensor.clone().view(-1)
    swapped[[first, second]] = swapped[[second, first]]
    assert weights_checksum([swapped.view(3, 1024)]) != weights_checksum([tensor])


def test_the_checksum_knows_which_tensor_is_which():
    a, b = torch.randn(4, 8), torch.randn(4, 8)
    assert weights_checksum([a, b]) != weights_checksum([b, a])
    assert weights_checksum([a]) != weights_checksum([a.view(8, 4)])

import copy

import numpy as np
import open_clip
import pytest
import torch

from ovparts_lib.models.clip import text
from ovparts_lib.models.clip.text import PromptTooLongError, encode_text, first_end, refuse_alike, tokenize
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.vocabularies import OBJECT_VOCABULARIES, PART_VOCABULARIES, load_vocabulary
from tests.golden.released_clipseg import FOLDER, read_json
from tests.systems.tiny import TINY_CLIP

PROMPTS = ("dog head", "chest of drawers apron", "bird wing")


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip(TINY_CLIP).eval()


def test_token_ids_are_the_recorded_ones():
    for prompt, ids in read_json("tokens.json")["ids_without_padding"].items():
        assert tokenize([prompt]).tolist() == [ids]


def test_token_ids_of_a_whole_vocabulary_are_the_recorded_ones():
    recorded = torch.from_numpy(np.load(FOLDER / "golden_eval_voc.npz")["input_ids"].astype(np.int64))
    ours = tokenize(load_vocabulary("pascal_part_116").prompts)
    ends = first_end(recorded)
    assert ours.shape == (116, int(ends.max()) + 1)
    for row, expected, end in zip(ours, recorded, ends, strict=True):
        assert row[: end + 1].tolist() == expected[: end + 1].tolist()
        assert not row[end + 1 :].any()


@pytest.mark.parametrize("name", PART_VOCABULARIES)
def test_tokens_are_open_clips_cut_to_the_longest(name):
    prompts = load_vocabulary(name).prompts
    ours, theirs = tokenize(prompts), open_clip.tokenize(list(prompts))
    assert torch.equal(ours, theirs[:, : ours.shape[1]])
    assert (ours[:, -1] == text.END_TOKEN).any()


def test_a_prompt_that_does_not_fit_is_named():
    with pytest.raises(PromptTooLongError, match=r"'wheel wheel.*' has 82 tokens.*takes 77"):
        tokenize(["dog head", " ".join(["wheel"] * 80)])


@pytest.mark.parametrize("prompts", ["dog head", []])
def test_prompts_must_be_several(prompts):
    with pytest.raises(ValueError, match="prompts"):
        tokenize(prompts)


@torch.no_grad()
def test_embeddings_are_open_clips(clip):
    torch.testing.assert_close(
        encode_text(clip, tokenize(PROMPTS)), clip.encode_text(open_clip.tokenize(list(PROMPTS)))
    )


@torch.no_grad()
def test_padding_does_not_matter(clip):
    tokens = tokenize(PROMPTS)
    plain = encode_text(clip, tokens)
    for padding in (0, text.END_TOKEN, 1774):
        longer = torch.nn.functional.pad(tokens, (0, 6), value=padding)
        longer[0, 4:] = padding
        torch.testing.assert_close(encode_text(clip, longer), plain)


def test_a_row_without_an_end_is_refused(clip):
    with pytest.raises(ValueError, match="no end token"):
        encode_text(clip, torch.tensor([[text.START_TOKEN, 320, 0]]))


def test_gradients_reach_only_the_rows_in_use(clip):
    clip = copy.deepcopy(clip)
    encode_text(clip, tokenize(PROMPTS)).square().sum().backward()
    rows = clip.token_embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    used = set(tokenize(PROMPTS).flatten().tolist()) - {0}
    assert set(rows) == used


@pytest.mark.parametrize("word", ["dog <end_of_text> head", "<start_of_text>", "&lt;end_of_text&gt;"])
def test_special_tokens_inside_a_word_are_refused(word):
    with pytest.raises(ValueError, match="spells a special token of the text tower"):
        tokenize(["dog head", word])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("dog", "Dog"),
        ("dog head", "dog   head"),
        ("caf\u00e9", "cafe\u0301"),  # composed and decomposed
        ("dog", "\uff44\uff4f\uff47"),  # full width
        ("dog's head", "dog\u2019s head"),
    ],
)
def test_words_that_are_one_to_the_tower_are_refused(first, second):
    assert torch.equal(tokenize([first]), tokenize([second]))
    with pytest.raises(ValueError, match="are one to the text tower"):
        refuse_alike([(first,), ("cat",), (second,)], (first, "cat", second))


def test_words_are_compared_with_all_that_stands_for_a_class():
    refuse_alike([("shelf", "shelf"), ("shelf", "cabinet")], ("shelf", "cabinet's shelf"))
    with pytest.raises(ValueError, match="'a' and 'b' are one to the text tower, which reads “head”, “dog” for both"):
        refuse_alike([("head", "dog"), ("Head", "DOG")], ("a", "b"))
    with pytest.raises(ValueError, match="the text tower reads nothing in the word '\\\\x00'"):
        refuse_alike([("\x00",)], ("\x00",))


@pytest.mark.parametrize("name", PART_VOCABULARIES + OBJECT_VOCABULARIES)
def test_no_benchmark_holds_a_word_twice(name):
    vocabulary = load_vocabulary(name)
    refuse_alike([(name,) for name in vocabulary.classes], vocabulary.classes)
    refuse_alike([(prompt,) for prompt in vocabulary.prompts], vocabulary.classes)

"""Names in prompt templates: exactness of the shared beginnings, and synonyms."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.models.clip.prompted_names import encode_names, encode_with_shared_beginning
from ovparts_lib.models.clip.prompts import IMAGENET, TEMPLATES
from ovparts_lib.models.clip.text import PromptTooLongError, encode_text, tokenize
from ovparts_lib.models.clip.towers import build_clip
from tests.systems.tiny import TINY_CLIP

NAMES = ("dog's head", "chest of drawers's apron", "dog's tail", "car's licence plate")


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return build_clip(TINY_CLIP).eval()


def plain(clip, name, template):
    return F.normalize(encode_text(clip, tokenize([template.format(name)]))[0], dim=0)


@torch.no_grad()
@pytest.mark.parametrize("template", ["a photo of the {}.", "{} in a video game", "{}"])
def test_shared_beginnings_change_no_embedding(clip, template):
    tokens = tokenize([template.format(name) for name in (*NAMES, "dog")])
    ours = encode_with_shared_beginning(clip, tokens)
    assert torch.allclose(ours, encode_text(clip, tokens), atol=1e-5)


@torch.no_grad()
def test_one_text_alone_and_texts_that_are_the_same(clip):
    for texts in (["a photo of a dog"], ["a photo of a dog"] * 3):
        tokens = tokenize(texts)
        assert torch.allclose(encode_with_shared_beginning(clip, tokens), encode_text(clip, tokens), atol=1e-5)


@torch.no_grad()
def test_every_name_in_every_template(clip):
    embeddings = encode_names(clip, NAMES, IMAGENET[:3])
    assert embeddings.shape == (4, 3, TINY_CLIP.embed_dim)
    for number, name in enumerate(NAMES):
        for place, template in enumerate(IMAGENET[:3]):
            assert torch.allclose(embeddings[number, place], plain(clip, name, template), atol=1e-5)


@torch.no_grad()
def test_synonyms_are_averaged_on_the_sphere(clip):
    both = encode_names(clip, ["sofa, couch"], ["a {}."])[0, 0]
    mean = (plain(clip, "sofa", "a {}.") + plain(clip, "couch", "a {}.")) / 2
    assert torch.allclose(both, F.normalize(mean, dim=0), atol=1e-5)
    verbatim = encode_names(clip, ["sofa, couch"], ["a {}."], synonyms=False)[0, 0]
    assert torch.allclose(verbatim, plain(clip, "sofa, couch", "a {}."), atol=1e-5)


def test_impossible_names(clip):
    with pytest.raises(ValueError, match="no names"):
        encode_names(clip, [], ["{}"])
    with pytest.raises(PromptTooLongError, match="takes 77"):
        encode_names(clip, [" ".join(["wheel"] * 80)], ("{}",))


def test_templates_are_the_published_lists():
    assert {name: len(templates) for name, templates in TEMPLATES.items()} == {
        "imagenet": 80,
        "imagenet_select": 8,
        "single": 1,
        "vild": 14,
        "miniature": 3,
    }
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)
    assert tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES) == IMAGENET
    seven = tuple(template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES)
    assert TEMPLATES["imagenet_select"] == (*seven, "A photo of a {} in the scene") == (*seven, *TEMPLATES["single"])
    assert (IMAGENET[0], IMAGENET[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")

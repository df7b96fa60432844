import hashlib
import json
import math

import numpy as np
import pytest
import torch

from ovparts_lib.miniature import shipped
from ovparts_lib.miniature.caption_batches import CaptionBatches
from ovparts_lib.miniature.captions import PHRASES
from ovparts_lib.miniature.miniclip import (
    MiniClipSettings,
    contrastive_loss,
    train_miniclip,
)
from ovparts_lib.miniature.naming import close_up_naming, held_out_scenes, naming_table, patch_naming
from ovparts_lib.miniature.pictures import CaptionedPictures, render_picture
from ovparts_lib.miniature.region_captions import CaptionedScenes
from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip
from ovparts_lib.training.muon import Muon, orthogonalise
from ovparts_lib.vocabularies import load_vocabulary

VOCABULARY = load_vocabulary("pascal_part_116")
TINY = ClipSize("tiny", 32, 32, 8, 32, 2, 1, 32, 1, 1)
BRIEF = MiniClipSettings(iterations=40, batch_size=32, warmup=5)


@pytest.fixture(scope="module")
def pictures():
    return CaptionedPictures(160, size=32, seed=1, progress=False)


@pytest.fixture(scope="module")
def scenes():
    return CaptionedScenes(60, size=64, seed=1, progress=False)


def test_a_short_training_beats_guessing(pictures, scenes):
    result = train_miniclip(pictures, scenes, TINY, settings=BRIEF, progress=False)
    assert result.history["step"].iloc[-1] == 40
    # nothing told apart: a picture's caption is one of the batch's and of those of regions that are parts
    parts = BRIEF.regions * np.mean([part is not None for _, _, part in scenes.topics])
    whole = (math.log(BRIEF.batch_size + parts) + math.log(BRIEF.batch_size)) / 2
    guessing = (whole + math.log(BRIEF.regions)) / 2
    assert result.history["loss"].iloc[-1] < guessing - 0.2


def test_training_is_deterministic_by_seed(pictures, scenes):
    short = MiniClipSettings(iterations=3, batch_size=16, warmup=1)
    clips = [train_miniclip(pictures, scenes, TINY, settings=short, progress=False).clip for _ in range(2)]
    states = [clip.state_dict() for clip in clips]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = MiniClipSettings(iterations=3, batch_size=16, warmup=1, seed=1)
    changed = train_miniclip(pictures, scenes, TINY, settings=other, progress=False).clip.state_dict()
    assert not torch.equal(states[0]["visual.proj"], changed["visual.proj"])


def test_only_words_of_captions_have_embeddings(pictures, scenes):
    short = MiniClipSettings(iterations=2, batch_size=16, warmup=1)
    result = train_miniclip(pictures, scenes, TINY, settings=short, progress=False)
    rows = result.clip.token_embedding.weight.any(1).nonzero().flatten()
    captions = [caption for told in [*pictures.captions, *scenes.captions] for caption in told]
    assert rows.tolist() == tokenize(captions).unique().tolist() == result.tokens.tolist()


def test_a_trained_miniclip_is_written_with_what_is_known_of_it(tmp_path):
    path = tmp_path / "miniclip.safetensors"
    brief = MiniClipSettings(iterations=4, batch_size=16, warmup=1)
    counts = {"pictures": 48, "scenes": 30, "test_pictures": 12}
    shipped.make_miniclip(path, brief, TINY, **counts, commit="abc", log_every=1, progress=False)
    facts = shipped.miniclip_facts(path)
    assert (facts["commit"], facts["settings"]["pictures"], facts["settings"]["iterations"]) == ("abc", 48, 4)
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(facts["accuracy"]) == {"patches", "patches_of_first_scenes", "close_ups"}
    result, size = shipped.load_miniclip(path)
    clip = result.clip
    assert size == TINY and len(result.history) == len(facts["history"])
    drawn = CaptionedPictures(48, size=32, seed=0, progress=False)
    drawn_scenes = CaptionedScenes(30, progress=False)
    trained = train_miniclip(drawn, drawn_scenes, TINY, settings=brief, progress=False).clip
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(clip.state_dict()[name], tensor.half().float(), rtol=0, atol=0)


def test_the_text_tower_reads_what_training_wrote(pictures):
    clip = build_clip(TINY)
    texts = CaptionBatches(pictures.captions, pictures.topics, clip)
    texts.write_back(clip)
    captions = [caption for of_picture in pictures.captions for caption in of_picture]
    some = torch.arange(0, len(captions), 37)
    torch.testing.assert_close(texts.encode(some), encode_text(clip, tokenize([captions[i] for i in some])))


def test_the_shipped_miniclip_is_what_its_facts_say():
    facts = shipped.miniclip_facts()
    assert hashlib.sha256(shipped.FILE.read_bytes()).hexdigest() == facts["sha256"]
    assert shipped.FILE.stat().st_size < 8e6
    result, size = shipped.load_miniclip()
    clip = result.clip
    assert size == MINIATURE and facts["size"] == json.loads(json.dumps(size.__dict__))
    assert {name: tensor.shape for name, tensor in clip.state_dict().items()} == {
        name: tensor.shape for name, tensor in build_clip(MINIATURE).state_dict().items()
    }
    scenes = held_out_scenes(VOCABULARY, shipped.FIRST_SCENES, shipped.TEST_SEED)
    table = patch_naming(clip, scenes, VOCABULARY)
    for group, stated in facts["accuracy"]["patches_of_first_scenes"].items():
        for column in ("count", "among_all_parts", "among_own_parts", "right_object"):
            assert table.loc[group, column] == pytest.approx(stated[column], abs=0.7)
    rows = clip.token_embedding.weight.any(1)
    for known, words in ((True, VOCABULARY.prompts), (False, ["zebra"])):
        assert all(bool(rows[tokenize([word])[0, 1:-1]].all()) is known for word in words)


def test_loss_of_single_positives_is_clips():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    diagonal = torch.arange(5)
    expected = sum(torch.nn.functional.cross_entropy(m, diagonal) for m in (logits, logits.T)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_other_captions_count_for_pictures_only():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    diagonal = torch.arange(4)
    of_pictures = torch.nn.functional.cross_entropy(logits, diagonal)
    of_captions = torch.nn.functional.cross_entropy(logits[:, :4].T, diagonal)
    loss = contrastive_loss(logits, torch.eye(4, 7, dtype=torch.bool))
    torch.testing.assert_close(loss, (of_pictures + of_captions) / 2)


def test_captions_are_true_where_they_say_what_is_shown(pictures, scenes):
    captions, topics = [*pictures.captions, *scenes.captions], [*pictures.topics, *scenes.topics]
    texts, draw = CaptionBatches(captions, topics, build_clip(TINY)), torch.Generator().manual_seed(0)
    shown = torch.arange(len(pictures), len(topics))
    shown = torch.cat([torch.arange(len(pictures)), shown[torch.randperm(len(shown), generator=draw)[:100]]])
    drawn = texts.draw(shown, draw)
    true = texts.true_of(shown, drawn)
    spoken = [captions[number // texts.each][number % texts.each] for number in drawn.tolist()]
    whole = ("scene", "object")
    for row, (kind, *names) in enumerate(topics[number] for number in shown.tolist()):
        for column, (other, *others) in enumerate(topics[number] for number in shown.tolist()):
            if other in whole:  # such captions tell more than a name
                expected = kind in whole and spoken[row] == spoken[column]
            elif spoken[column] == others[1]:
                expected = names[1] == others[1]
            else:
                expected = kind not in whole and names == others
            assert true[row, column] == (expected or row == column), (spoken[row], spoken[column])


def test_loss_is_least_when_true_captions_share_the_mass():
    true = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss = contrastive_loss(torch.where(true, 20.0, -20.0), true)
    assert loss.item() == pytest.approx(2 / 3 * math.log(2), abs=1e-4)


def test_accuracy_counts_and_chance_levels():
    close_ups = CaptionedPictures(60, size=32, seed=2, shares={"part": 1.0}, progress=False)
    table = close_up_naming(build_clip(TINY), close_ups, VOCABULARY)
    assert table["count"].sum() == 60
    assert list(table.index) == ["seen", "unseen"]
    assert table["chance_all"].tolist() == pytest.approx([100 / 116] * 2)
    assert ((table >= 0) & (table <= 100)).drop(columns="count").all(axis=None)


def test_naming_counts_by_hand():
    head, leg, wheel = (VOCABULARY.part_id(name) for name in ("cat's head", "cat's leg", "bus's wheel"))
    similarity = torch.zeros(3, 116)
    similarity[0, head] = similarity[1, wheel] = similarity[2, wheel] = 2
    similarity[1, leg] = 1
    table = naming_table(similarity, torch.tensor([head, leg, wheel]), VOCABULARY)
    assert table.loc["seen", "count"] == 3
    assert table.loc["seen", ["among_all_parts", "among_own_parts"]].tolist() == pytest.approx([200 / 3, 100])
    assert table.loc["seen", "chance_all"] == pytest.approx(100 / 116)


def test_pictures_of_another_size_are_refused(pictures, scenes):
    with pytest.raises(ValueError, match="32 pixels wide, the model takes 64"):
        train_miniclip(pictures, scenes, ClipSize("x", 32, 64, 8, 32, 1, 1, 32, 1, 1), progress=False)


def test_captioned_pictures_are_named_and_reproducible():
    shares = {"scene": 0.2, "object": 0.25, "part": 0.4, "stuff": 0.15}
    made = [render_picture(i, seed=4, size=32, shares=shares) for i in range(40)]
    assert {picture.kind for picture in made} == set(shares)
    for number, picture in enumerate(made):
        assert picture.picture.shape == (32, 32, 3) and picture.picture.dtype == np.uint8
        for caption in picture.captions:
            named = any(word in caption for word in PHRASES["spellings"].get(picture.object, (picture.object,)))
            if picture.kind == "part":
                assert picture.part in caption and (named or caption == picture.part)
            else:
                assert named
        again = render_picture(number, seed=4, size=32, shares=shares)
        assert (again.picture == picture.picture).all() and again.captions == picture.captions


def test_muon_orthogonalises():
    for shape in ((24, 8), (8, 24), (16, 16)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.max() < 1.3 and values.min() > 0.3


def test_muon_finds_a_least_squares_solution():
    torch.manual_seed(0)
    goal, weight = torch.randn(6, 4), torch.nn.Parameter(torch.zeros(6, 4))
    optimiser = Muon([weight], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (weight - goal).square().sum().backward()
        optimiser.step()
    assert (weight - goal).norm() < 0.2 * goal.norm()

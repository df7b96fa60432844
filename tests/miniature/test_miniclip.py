import hashlib
import json

import numpy as np
import pytest
import torch

from ovparts_lib.miniature import miniclip, shipped
from ovparts_lib.miniature.miniclip import MiniClipSettings, train_miniclip
from ovparts_lib.miniature.miniclip_losses import contrastive_loss, word_losses
from ovparts_lib.miniature.naming import close_up_naming, held_out_scenes, naming_table, patch_naming
from ovparts_lib.miniature.pictures import ScenePool, cut_out
from ovparts_lib.miniature.scene import generator, render_scene
from ovparts_lib.miniature.token_rows import TokenRows, known_tokens
from ovparts_lib.miniature.words import Words
from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip
from ovparts_lib.training.muon import Muon, orthogonalise
from ovparts_lib.vocabularies import load_vocabulary

VOCABULARY = load_vocabulary("pascal_part_116")
WORDS = Words(VOCABULARY)
TINY = ClipSize("tiny", 32, 64, 16, 32, 2, 1, 32, 1, 1)
BRIEF = MiniClipSettings(iterations=20, picture_sizes=(48, 64), patches=144, pool=12, fresh_scenes=1, warmup=5)


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(VOCABULARY, 24)


def short(**changes):
    return MiniClipSettings(
        **(
            {"iterations": 3, "picture_sizes": (48,), "patches": 72, "pool": 4, "fresh_scenes": 1, "warmup": 2}
            | changes
        )
    )


def train(settings, **options):
    return train_miniclip(TINY, settings=settings, progress=False, check_every=0, **options)


def test_a_short_training_beats_guessing(tmp_path):
    path = tmp_path / "miniclip.safetensors"
    shipped.make_miniclip(path, BRIEF, commit="abc", test_scene_count=6, size=TINY, log_every=5, check_every=0)
    facts = shipped.miniclip_facts(path)
    first, *_, last = facts["history"]
    assert (last["step"], facts["commit"]) == (20, "abc") and facts["settings"]["pool"] == 12
    assert last["loss"] < first["loss"] - 0.4
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(facts["accuracy"]) == {"patches", "patches_of_first_scenes", "close_ups"}
    clip, size = shipped.load_miniclip(path)
    assert size == TINY and clip.token_embedding.weight.shape == (49408, 32)


def test_training_is_deterministic_by_seed():
    states = [train(short()).clip.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["visual.proj"], train(short(seed=1)).clip.state_dict()["visual.proj"])


def test_a_stopped_training_goes_on_to_the_same_end(tmp_path, monkeypatch):
    whole = train(short(iterations=8, decay=0.5)).clip.state_dict()
    state = tmp_path / "state.pt"
    draw = miniclip.draw_pictures

    def interrupted(pool, words, settings, patch, step, rng):
        if step == 4:
            raise KeyboardInterrupt
        return draw(pool, words, settings, patch, step, rng)

    monkeypatch.setattr(miniclip, "draw_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):  # begun as a shorter one, before whose last half the rate is the same
        train(short(iterations=6, decay=0.5), state=state, log_every=2)
    monkeypatch.undo()
    resumed = train(short(iterations=8, decay=0.5), state=state, log_every=2)
    assert resumed.history["step"].tolist() == [2, 4, 6, 8]
    for name, tensor in resumed.clip.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="another recipe"):  # it has begun to end
        train(short(iterations=20, decay=0.5), state=state)


def test_only_words_of_captions_have_embeddings():
    trained = train(short()).clip.token_embedding.weight
    rows = trained.any(1).nonzero().flatten()
    known = known_tokens(WORDS.texts())
    assert torch.isin(rows, known).all() and 150 < len(rows) < 400


def test_every_caption_and_wording_is_of_known_words(scenes):
    rng = np.random.default_rng(0)
    texts = [text for _ in range(20) for text in WORDS.wordings(rng)]
    texts += [cut_out(scene, WORDS, 48, rng).caption for scene in scenes for _ in range(20)]
    assert torch.isin(tokenize(texts), known_tokens(WORDS.texts())).all()


def test_token_rows_encode_as_the_text_tower_does():
    clip = build_clip(TINY)
    rows = TokenRows(clip, WORDS.texts())
    texts = ["dog's head", "a photo of a red car with two wheels"]
    expected = torch.nn.functional.normalize(encode_text(clip, tokenize(texts)), dim=-1)
    torch.testing.assert_close(rows.encode(texts), expected)
    rows.write_back()
    torch.testing.assert_close(
        rows.encode(texts), torch.nn.functional.normalize(encode_text(clip, tokenize(texts)), dim=-1)
    )


def test_words_are_true_of_what_is_drawn(scenes):
    for scene in scenes:
        shown = WORDS.shown(scene.part_map, scene.object_map, scene.place, 16)
        parts = {i for i in range(116) if (scene.part_map == i).sum() >= 16}
        assert set(np.flatnonzero(shown[:116])) == parts
        generic = {VOCABULARY.part_to_generic[i] for i in parts}
        assert set(np.flatnonzero(shown[WORDS.first_generic : WORDS.first_place])) == generic
        objects = {i for i in range(20) if (scene.object_map == i).sum() >= 32}
        assert set(np.flatnonzero(shown[WORDS.first_object : WORDS.first_generic])) == objects


def test_tables_hold_every_word_and_nothing_twice():
    for table in WORDS.tables:
        assert len(table.unique()) == len(table)
    assert torch.cat(WORDS.tables).unique().tolist() == list(range(WORDS.count))


def test_cut_outs_show_what_they_say(scenes):
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng(number)
        picture = cut_out(scene, WORDS, 48, rng)
        assert picture.picture.shape == (48, 48, 3) and picture.picture.dtype == np.uint8
        again = cut_out(scene, WORDS, 48, np.random.default_rng(number))
        assert (again.picture == picture.picture).all() and again.caption == picture.caption
        if picture.part is not None:
            assert picture.words[picture.part] and WORDS.parts[picture.part][1] in picture.caption
    whole = cut_out(scenes[0], WORDS, 96, np.random.default_rng(0), {"scene": 1.0})
    assert (whole.kind, whole.part) == ("scene", None)


def test_the_pool_is_a_window_of_one_stream():
    pool = ScenePool(VOCABULARY, 3, 2, 5)
    for step, place in ((0, 2), (1, 0), (2, 1)):
        expected = render_scene(generator(5, "captions", 2 * step + place), VOCABULARY)
        assert (pool.at(step, place).image == expected.image).all()


def test_loss_of_single_positives_is_clips():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    diagonal = torch.arange(5)
    expected = sum(torch.nn.functional.cross_entropy(m, diagonal) for m in (logits, logits.T)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_word_losses_are_least_where_every_patch_is_sure_of_a_true_word_and_every_true_word_is_shown():
    true = torch.tensor([[1, 1, 0, 0]], dtype=torch.bool)
    sure = 30 * torch.eye(4)[[0, 1, 1]][None]
    assert sum(word_losses(sure, true)).item() == pytest.approx(0, abs=1e-5)
    undecided = 30 * torch.tensor([1.0, 1, 0, 0]).expand(1, 3, 4)
    assert [loss.item() for loss in word_losses(undecided, true)] == pytest.approx([0, np.log(2)], abs=1e-5)
    one_sided = 30 * torch.eye(4)[[0, 0, 0]][None]
    patches, words = word_losses(one_sided, true)
    assert patches.item() == pytest.approx(0, abs=1e-5) and words.item() > 5
    wrong = 30 * torch.eye(4)[[0, 1, 2]][None]
    assert word_losses(wrong, true)[0].item() > 3
    assert sum(word_losses(sure, torch.zeros(1, 4, dtype=torch.bool))).item() == 0


def test_naming_counts_by_hand():
    head, leg, wheel = (VOCABULARY.part_id(name) for name in ("cat's head", "cat's leg", "bus's wheel"))
    similarity = torch.zeros(3, 116)
    similarity[0, head] = similarity[1, wheel] = similarity[2, wheel] = 2
    similarity[1, leg] = 1
    table = naming_table(similarity, torch.tensor([head, leg, wheel]), VOCABULARY)
    assert table.loc["seen", "count"] == 3
    assert table.loc["seen", ["among_all_parts", "among_own_parts"]].tolist() == pytest.approx([200 / 3, 100])
    assert table.loc["seen", "chance_all"] == pytest.approx(100 / 116)


def test_the_shipped_miniclip_is_what_its_facts_say():
    facts = shipped.miniclip_facts()
    assert hashlib.sha256(shipped.FILE.read_bytes()).hexdigest() == facts["sha256"]
    assert shipped.FILE.stat().st_size < 8e6
    clip, size = shipped.load_miniclip()
    assert shipped.unknown_words(["dog's head", "a zebra"]) == ["a zebra"]
    assert size == MINIATURE and facts["size"] == json.loads(json.dumps(size.__dict__))
    assert {name: tensor.shape for name, tensor in clip.state_dict().items()} == {
        name: tensor.shape for name, tensor in build_clip(MINIATURE).state_dict().items()
    }
    scenes = held_out_scenes(VOCABULARY, shipped.FIRST_SCENES, shipped.TEST_SEED)
    table = patch_naming(clip, scenes, VOCABULARY)
    for group, stated in facts["accuracy"]["patches_of_first_scenes"].items():
        for column in ("count", "among_all_parts", "among_own_parts", "right_object"):
            assert table.loc[group, column] == pytest.approx(stated[column], abs=0.7)
    assert len(close_up_naming(clip, scenes, VOCABULARY, 64)) == 2


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
    with pytest.raises(ValueError, match="matrices only"):
        Muon([torch.nn.Parameter(torch.zeros(3))])

"""SCAN in miniature: training, predictions and what can be seen of them."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.sizes import MINIATURE_SCAN, RELEASED, ScanSize
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

SIZE = replace(MINIATURE_SCAN, queries=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Scan(SIZE, mask_threshold=0.5).eval()


@pytest.fixture
def setting(model):
    """Changes options of the model for a test."""
    kept = {}

    def change(**options):
        for name, value in options.items():
            kept.setdefault(name, getattr(model, name))
            setattr(model, name, value)
        return model

    yield change
    for name, value in kept.items():
        setattr(model, name, value)


def words(*names):
    return Vocabulary("words", names)


def picture(height=70, width=96, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch():
    labels = torch.full((96, 96), 255)
    labels[:40], labels[40:70] = 0, 2
    empty = torch.full((96, 96), 255)
    names = ("cat", "sky", "road, route")
    return {
        "images": [picture(96, 96, 1), picture(96, 96, 2)],
        "part_maps": [labels, empty],
        "vocabulary": words(*names),
    }


def test_every_part_of_what_trains_gets_a_gradient_and_no_frozen_tower_does(model):
    losses = model.loss(batch())
    levels = ["", *(f"_{number}" for number in range(SIZE.layers - 1))]  # the last auxiliary one counts for nothing
    assert set(losses) == {f"loss_{name}{level}" for name in ("ce", "mask", "dice") for level in levels}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith(("clip.", "original_clip."))), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.zero_grad(set_to_none=True)


def test_the_level_without_a_loss_is_an_option(setting):
    losses = setting(last_auxiliary_loss=True).loss(batch())
    assert f"loss_mask_{SIZE.layers - 1}" in losses


def test_training_without_the_frozen_towers_gives_the_same_loss_and_brings_them_back(model):
    def loss():
        torch.manual_seed(3)
        return model.loss(batch())

    model.train()
    before, kept = loss(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (scored,) = model.predict([picture()], words("cat", "sky"))
    with model.without_unused_towers(batch()["vocabulary"]) as brought_back:
        for _ in range(2):
            assert not any(name.startswith("clip.") for name in model.state_dict())
            torch.testing.assert_close(loss(), before)
            with pytest.raises(ValueError, match="out of memory"):
                model.encode_classes(["dog"])
            state = torch.get_rng_state()
            with brought_back():  # periodic evaluation
                (found,) = model.predict([picture()], words("cat", "sky"))
                assert torch.equal(found.class_weights, scored.class_weights)
            assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert set(after) == set(kept) and all(torch.equal(after[name], kept[name]) for name in kept)
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())
    model.eval()


def test_scoring_without_the_text_tower_gives_the_same_scores_and_brings_it_back(setting):
    model = setting().eval()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for vocabulary in (words("cat", "sky"), words("cat")):
        (before,) = model.predict([picture()], vocabulary)
        with model.without_unused_towers(vocabulary):
            held = {name for name in model.state_dict() if name.startswith("clip.")}
            assert held == {name for name in kept if name.startswith("clip.visual.")} | {"clip.logit_scale"}
            (found,) = model.predict([picture()], vocabulary)
            with pytest.raises(ValueError, match="out of memory"):
                model.predict([picture()], words("dog", "sky"))
        assert torch.equal(found.class_weights, before.class_weights) and torch.equal(found.logits, before.logits)
        after = model.state_dict()
        assert list(after) == list(kept) and all(torch.equal(after[name], kept[name]) for name in kept)


def test_where_no_temporary_file_can_be_written_scoring_goes_on_with_the_text_tower(
    model, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    vocabulary = words("cat", "sky")
    (before,) = model.predict([picture()], vocabulary)
    with model.without_unused_towers(vocabulary):
        (found,) = model.predict([picture()], vocabulary)
        assert model.clip.transformer is not None and "stay in memory" in caplog.text
    assert torch.equal(found.class_weights, before.class_weights)


def test_scores_are_masks_times_classes_at_any_size_and_for_parts_too(model):
    vocabulary = PartVocabulary.from_words({"dog": ["head", "tail"], "cat": ["head"]})
    scores = model.predict([picture(), picture(40, 200)], vocabulary, class_ids=[2, 0])
    for score, size in zip(scores, [(70, 96), (40, 200)], strict=True):
        assert score.image_size == size and score.class_ids == (2, 0)
        assert score.class_weights.shape == (2, 6) and score.background is None
        assert score.class_maps().shape[0] == 2 and score.class_maps().isfinite().all()
        assert set(pred_all_map(score, 3).unique().tolist()) <= {0, 2}


def test_an_image_is_scored_alike_alone_and_beside_others_and_every_time(model):
    vocabulary = words("cat", "sky")
    alone = model.predict([picture()], vocabulary)[0]
    beside = model.predict([picture(50, 50, 5), picture()], vocabulary)[1]
    assert torch.equal(alone.class_maps(), beside.class_maps())


def test_inspection_tells_what_sim_changed_and_cs_overwrote(model):
    (scores, maps), = model.inspect([picture()], words("cat", "sky", "sea"))  # fmt: skip
    proposals, calibration = maps["proposals"], maps["calibration"]
    assert calibration.before.shape == calibration.after.shape == (6, 3)
    assert torch.equal(calibration.after, proposals.proposals)
    assert not torch.allclose(calibration.before, calibration.after)
    regions = int(proposals.valid.sum())
    assert calibration.kept.shape == (regions, calibration.grid**2) and len(proposals.boxes) == regions
    assert set(calibration.shifted) == set(SIZE.shift_blocks)
    for shifted in calibration.shifted.values():
        expected = (0.15 * (~calibration.kept).sum(1)).long()
        assert torch.equal(shifted.sum(1), expected) and not (shifted & calibration.kept).any()
    torch.testing.assert_close(scores.class_weights, proposals.combined.T)


def test_without_sim_and_without_cs(setting):
    model = setting(calibrates=False, shift_ratio=0.0)
    (_, maps), = model.inspect([picture()], words("cat", "sky"))  # fmt: skip
    assert torch.equal(maps["calibration"].before, maps["calibration"].after)
    assert maps["calibration"].shifted == {}


def test_an_image_in_which_no_mask_passes_is_classified_by_the_proposals(setting):
    model = setting(crop_rule=replace(Scan(SIZE).crop_rule, threshold=0.999999))
    (_, maps), = model.inspect([picture()], words("cat", "sky"))  # fmt: skip
    proposals = maps["proposals"]
    assert not proposals.valid.any() and len(proposals.clip) == 0
    torch.testing.assert_close(proposals.combined, proposals.proposals ** (1 - model.ensemble_weight))
    (_, maps), = setting(classifier="clip").inspect([picture()], words("cat", "sky"))  # fmt: skip
    assert not maps["proposals"].combined.any()


def test_classifiers_differ_and_the_proposals_alone_need_no_crops(setting):
    by_kind = {
        kind: setting(classifier=kind).inspect([picture()], words("cat", "sky"))[0][1]["proposals"]
        for kind in ("ensemble", "proposals", "clip")
    }
    assert by_kind["proposals"].clip is None
    assert torch.equal(by_kind["proposals"].combined, by_kind["ensemble"].proposals)
    valid = by_kind["clip"].valid
    assert torch.equal(by_kind["clip"].combined[valid], by_kind["ensemble"].clip)


def test_the_second_normalisation_makes_a_distribution_with_the_void(setting):
    (_, maps), = setting(second_normalisation=True).inspect([picture()], words("cat", "sky"))  # fmt: skip
    proposals = maps["proposals"]
    torch.testing.assert_close(proposals.combined.sum(1), proposals.proposals.sum(1), rtol=1e-4, atol=1e-6)


def test_one_word_is_scored_against_others(model):
    scores = model.predict([picture()], words("cat"))[0]
    assert scores.background is not None and scores.class_ids == (0,)
    assert model.predict([picture()], words("cat"), background=False)[0].background is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "both"}, r"classifier\n.*'ensemble', 'proposals' or 'clip'"),
        ({"ensemble_weight": 0.0}, r"ensemble_weight\n.*greater than 0"),
        ({"shift_ratio": 1.5}, r"shift_ratio\n.*less than or equal to 1"),
        ({"crops_at_once": 0}, r"crops_at_once\n.*greater than 0"),
        ({"lr_multipliers": {"backbones": 0.1}}, "did you mean 'backbone'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Scan(SIZE, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": (9, 7)}, "a number above 0 for each"),
        ({"shift_blocks": (1, 30)}, "shift_blocks must be blocks 1 to 24"),
        ({"templates": "none"}, "templates must be one of"),
        ({"width": 250}, "multiple of groups"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RELEASED, **changes)


def test_a_size_survives_being_stated():
    for size in (RELEASED, MINIATURE_SCAN):
        assert ScanSize(**json.loads(json.dumps(asdict(size)))) == size and isinstance(size, ScanSize)

"""Behaviour of the whole system in a tiny size, untrained."""

import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.data.dataset import EvaluationSample, ObjectRegion
from ovparts_lib.systems.proposals import mask_overlap, mask_quality
from ovparts_lib.systems.zsseg_plus import inference
from ovparts_lib.systems.zsseg_plus.ablations import oracle_ablations
from tests.systems.zsseg_plus.tiny import VOCABULARY, tiny_zsseg_plus

CHAIR, ARMCHAIR, DOG, SKY = range(4)


def picture(height=50, width=70, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def box(object_id, top, left, height, width):
    return ObjectRegion(object_id, top, left, torch.ones(height, width, dtype=torch.bool))


REGIONS = [box(CHAIR, 5, 5, 30, 25), box(DOG, 20, 30, 20, 35)]


@pytest.fixture(scope="module")
def model():
    return tiny_zsseg_plus()


def test_objects_of_an_image_are_scored_as_if_each_were_alone(model, monkeypatch):
    encoded = []
    encode = type(model).encode_images
    monkeypatch.setattr(type(model), "encode_images", lambda *args: encoded.append(1) or encode(*args))
    together = model.predict([picture(), picture(40, 40, 1)], VOCABULARY, regions=[REGIONS, [box(DOG, 0, 0, 40, 40)]])
    assert len(together) == 3
    assert len(encoded) == 2
    for scores, region in zip(together, REGIONS, strict=False):
        alone = model.predict([picture()], VOCABULARY, regions=[[region]])[0]
        assert torch.allclose(scores.logits, alone.logits, atol=1e-5)
        assert scores.image_size == (50, 70)
        assert scores.background is None
        foreign = [n for n in range(6) if n not in VOCABULARY.parts_of(region.object_id)]
        assert not scores.logits[foreign].any()
        assert scores.logits.amax() > 0


def test_an_image_without_regions_gives_no_scores(model):
    assert model.predict([picture(), picture()], VOCABULARY, regions=[[], [REGIONS[0]]])[0].image_size == (50, 70)
    assert model.predict([picture()], VOCABULARY, regions=[[]]) == []


def test_classes_come_in_the_order_asked_for(model):
    every = model.predict([picture()], VOCABULARY, regions=[REGIONS[:1]])[0]
    some = model.predict([picture()], VOCABULARY, class_ids=(1, 4, 0), regions=[REGIONS[:1]])[0]
    assert some.class_ids == (1, 4, 0)
    assert torch.equal(some.logits, every.logits[[1, 4, 0]])


def test_each_stage_alone_and_both(model):
    scores = {}
    for ensemble in ("stage1", "clip", "both"):
        other = tiny_zsseg_plus(ensemble=ensemble, ensemble_weight=0.8)
        scores[ensemble] = other.predict([picture()], VOCABULARY, regions=[[REGIONS[1]]])[0].logits
    seen = scores["stage1"][[4, 5]] ** 0.2 * scores["clip"][[4, 5]] ** 0.8  # a dog's parts are unseen
    assert torch.allclose(scores["both"][[4, 5]], seen, atol=1e-6)
    assert scores["stage1"].amin() > 0
    inside = F.interpolate(scores["clip"].sum(0)[None, None], size=(50, 70))[0, 0][22:38, 34:62]
    assert torch.allclose(inside, torch.ones(16, 28), atol=1e-5)


def test_the_first_regions_mask_and_class_for_all_as_released():
    released = tiny_zsseg_plus(stage2_object="first_as_released")
    first, second = released.predict([picture()], VOCABULARY, regions=[REGIONS])
    own = tiny_zsseg_plus().predict([picture()], VOCABULARY, regions=[REGIONS])
    assert torch.equal(first.logits, own[0].logits)
    assert second.logits[[0, 1]].any() and not second.logits[[4, 5]].any()


def test_the_mask_prompts_both_attention_and_class(model):
    pixels, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96)
    features = model.encode_images(pixels)
    without = model.propose(features, mask)
    mask[:, :20, :20] = 1
    with_mask = model.propose(features, mask)
    assert not torch.allclose(without.mask_logits, with_mask.mask_logits)
    last = model.propose(features, mask, last_only=True)
    torch.testing.assert_close(last.mask_logits[0], with_mask.mask_logits[-1])
    torch.testing.assert_close(last.class_embeddings[0], with_mask.class_embeddings[-1])


def test_without_regions_the_found_objects_are_scored_like_given_ones(model, monkeypatch):
    found = torch.zeros(2, 64, 90, dtype=torch.bool)
    found[0, :30, :40], found[1, 40:, 50:] = True, True
    monkeypatch.setattr(inference, "find_objects", lambda *args: [(CHAIR, found[0]), (DOG, found[1])])
    (scores, maps), = model.inspect([picture()], VOCABULARY)  # fmt: skip
    assert torch.equal(scores.background == 0, found.any(0))
    assert not scores.logits[:, ~found.any(0)].any()
    assert scores.logits[:2][:, found[0]].any() and not scores.logits[4:][:, found[0]].any()
    assert scores.logits[4:][:, found[1]].any() and not scores.logits[:4][:, found[1]].any()
    assert len(maps["proposals"].masks) == 12
    monkeypatch.setattr(inference, "find_objects", lambda *args: [])
    nothing = model.predict([picture()], VOCABULARY)[0]
    assert not nothing.logits.any() and nothing.background.all()
    assert model.predict([picture()], VOCABULARY, background=False)[0].background is None


def test_maps_say_what_both_stages_saw(model):
    (scores, maps), = model.inspect([picture()], VOCABULARY, regions=[REGIONS[:1]])  # fmt: skip
    proposals, regions = maps["proposals"], maps["regions"]
    assert proposals.masks.shape == (6, 64, 90)
    assert proposals.classes == VOCABULARY.classes
    assert torch.allclose(regions.clip.sum(1), torch.ones(len(regions.masks)), atol=1e-5)
    assert not regions.clip[:, 2:].any()
    assert torch.equal(regions.masks.sum(0) > 0, regions.masks.amax(0) > 0)  # they do not overlap
    assert torch.allclose(regions.combined, (regions.proposals * regions.clip).sqrt(), atol=1e-6)
    quality = mask_quality(proposals.masks)
    assert quality.shape == (6,)
    assert ((quality == 0) | (quality > 0.5)).all()
    own = proposals.masks > 0.5
    overlap = mask_overlap(proposals.masks, own)
    assert torch.allclose(overlap.diagonal(), (own.sum((1, 2)) > 0).float())
    assert torch.equal(scores.logits, model.predict([picture()], VOCABULARY, regions=[REGIONS[:1]])[0].logits)


def test_tiny_regions_and_images_keep_a_pixel(model):
    speck = ObjectRegion(DOG, 2001, 3, torch.ones(1, 1, dtype=torch.bool))
    scores = model.predict([picture(3000, 8)], VOCABULARY, regions=[[speck]])[0]
    assert scores.logits[4:].amax() > 0
    assert model.predict([picture(1, 1)], VOCABULARY, regions=[[box(DOG, 0, 0, 1, 1)]])[0].image_size == (1, 1)


def test_ablations_leave_one_half_of_the_task(model):
    part_map = torch.full((50, 70), VOCABULARY.ignore_label)
    part_map[5:20, 5:30], part_map[20:35, 5:30], part_map[22:40, 32:60] = 0, 1, 4
    sample = EvaluationSample(picture(), part_map, torch.zeros_like(part_map), tuple(REGIONS), "x")
    found = oracle_ablations(model, sample, VOCABULARY)
    for scores, region in zip(found["oracle_mask"], REGIONS, strict=True):
        # one opinion for each annotated part
        labels = F.interpolate(scores.logits.argmax(0)[None, None].float(), size=(50, 70))[0, 0]
        for part in VOCABULARY.parts_of(region.object_id):
            where = torch.zeros(50, 70)
            where[region.box] = (part_map[region.box] == part).float()
            inner = -F.max_pool2d(-where[None, None], 5, 1, 2)[0, 0] > 0
            assert len(labels[inner].unique()) <= 1
    scores = found["oracle_class"][1]
    # the dog's only annotated part is its head, so that each of its labelled regions is one
    assert scores.class_ids == (4, 5)
    assert scores.logits[0].any() and not scores.logits[1].any()


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([], "1 images, and regions for 0"),
        ([[box(DOG, 40, 0, 20, 20)]], "does not fit an image"),
        ([[ObjectRegion(DOG, 0, 0, torch.zeros(5, 5, dtype=torch.bool))]], "is empty in an image"),
        ([[box(SKY, 0, 0, 5, 5)]], "'sky' has no parts"),
    ],
)
def test_wrong_regions(model, regions, message):
    with pytest.raises(ValueError, match=message):
        model.predict([picture()], VOCABULARY, regions=regions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "stage2"}, r"ensemble\n.*'both', 'stage1' or 'clip'"),
        ({"ensemble_weight": 1.5}, r"ensemble_weight\n.*less than or equal to 1"),
        ({"class_rule": "name"}, r"class_rule\n.*'exact' or 'substring'"),
        ({"lr_multipliers": {"backbones": 1}}, "did you mean 'backbone'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_zsseg_plus(**options)

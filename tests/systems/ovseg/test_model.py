"""What OVSeg does with words, own masks, options and bad input, on a tiny model."""

import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.systems.ensemble import best_masks, clip_classes, geometric_ensemble, proposal_classes
from ovparts_lib.training.optimisers import build_optimiser
from ovparts_lib.training.settings import TrainingSettings
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary
from tests.systems.ovseg.tiny import TINY_RESNET, tiny_ovseg
from tests.systems.tiny import random_image

WORDS = Vocabulary("words", ("cat", "road, route", "sky", "dog's head"))


@pytest.fixture(scope="module")
def model():
    return tiny_ovseg().eval()


def test_scores_are_sums_of_masks_and_their_classes(model):
    image = random_image(40, 70)
    ((scores, maps),) = model.inspect([image], WORDS)
    proposals = maps["proposals"]
    assert scores.image_size == (40, 70) and scores.background is None
    assert proposals.masks.shape == (6, 48, 84) and proposals.masks.max() <= 1
    torch.testing.assert_close(scores.class_maps(), torch.einsum("qc,qhw->chw", proposals.combined, proposals.masks))
    expected = geometric_ensemble(proposals.proposals, proposals.clip, proposals.valid, 0.7, "proposals")
    torch.testing.assert_close(proposals.combined, expected)
    assert pred_all_map(scores).shape == (40, 70)


def test_ensemble_is_a_geometric_mean_with_ones_for_masks_without_a_crop():
    torch.manual_seed(0)
    proposals, clip = torch.rand(4, 3), torch.rand(2, 3)
    valid = torch.tensor([True, False, True, False])
    released = geometric_ensemble(proposals, clip, valid, 0.7, "as_released")
    torch.testing.assert_close(released[0], proposals[0] ** 0.3 * clip[0] ** 0.7)
    torch.testing.assert_close(released[1], proposals[1] ** 0.3)
    right = geometric_ensemble(proposals, clip, valid, 0.7, "proposals")
    torch.testing.assert_close(right[[0, 2]], released[[0, 2]])
    torch.testing.assert_close(right[1], proposals[1])
    logits = torch.randn(4, 4)
    torch.testing.assert_close(proposal_classes(logits).sum(1), 1 - logits.softmax(1)[:, 3])
    torch.testing.assert_close(clip_classes(logits).sum(1), torch.ones(4))


def test_images_are_scored_one_by_one_and_classes_in_any_order(model):
    images = [random_image(40, 70), random_image(90, 60, 1)]
    both = model.predict(images, WORDS)
    for image, scores in zip(images, both, strict=True):
        (alone,) = model.predict([image], WORDS, class_ids=[2, 0])
        assert alone.class_ids == (2, 0)
        torch.testing.assert_close(alone.class_maps(), scores.class_maps([2, 0]), rtol=1e-4, atol=1e-5)


def test_parts_are_words_like_any(model):
    vocabulary = PartVocabulary.from_words({"dog": ["head", "tail"]})
    (scores,) = model.predict([random_image(40, 70)], vocabulary)
    (words,) = model.predict([random_image(40, 70)], Vocabulary("same", vocabulary.classes))
    torch.testing.assert_close(scores.class_maps(), words.class_maps())


def test_proposals_alone_do_not_run_the_image_tower(monkeypatch):
    model = tiny_ovseg(classifier="proposals").eval()
    monkeypatch.setattr(model.clip, "visual", None)
    ((scores, maps),) = model.inspect([random_image(40, 70)], WORDS)
    assert maps["proposals"].clip is None
    torch.testing.assert_close(scores.class_weights.T, maps["proposals"].proposals)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_the_number_of_crops_in_a_pass_changes_nothing(at_once):
    model = tiny_ovseg(crops_at_once=at_once).eval()
    (expected,) = tiny_ovseg(crops_at_once=64).eval().predict([random_image(40, 70)], WORDS)
    (found,) = model.predict([random_image(40, 70)], WORDS)
    torch.testing.assert_close(found.class_weights, expected.class_weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classifier", ["ensemble", "clip", "proposals"])
@pytest.mark.parametrize("fusion", ["sum", "best_mask"])
def test_no_mask_above_the_threshold(classifier, fusion):
    model = tiny_ovseg(classifier=classifier, fusion=fusion, mask_threshold=0.4).eval()
    with torch.no_grad():
        model.transformer_decoder.mask_embed.layers[-1].weight.zero_()
        model.transformer_decoder.mask_embed.layers[-1].bias.zero_()
        model.pixel_decoder.mask_features.bias.fill_(0.0)
    model.crop_rule = type(model.crop_rule)(0.6)
    ((scores, maps),) = model.inspect([random_image(40, 70)], WORDS)
    if classifier != "proposals":
        assert not maps["proposals"].valid.any()
    if classifier == "clip" or fusion == "best_mask":
        assert scores.class_maps().abs().max() == 0
    elif classifier == "ensemble":
        torch.testing.assert_close(maps["proposals"].combined, maps["proposals"].proposals)


def test_best_mask_keeps_one_mask_for_each_class_and_leaves_the_rest_blank():
    model = tiny_ovseg(fusion="best_mask", mask_threshold=0.5).eval()
    ((scores, maps),) = model.inspect([random_image(48, 96)], WORDS)
    proposals = maps["proposals"]
    chosen = sorted(set(proposals.combined.argmax(0).tolist()))
    assert best_masks(proposals.combined, 4).tolist() == chosen
    hard = (proposals.masks[chosen] > 0.5).float()
    torch.testing.assert_close(scores.logits, hard)
    labels = pred_all_map(scores, 99)
    assert torch.equal(labels == 99, ~hard.bool().any(0))


def test_one_word_is_scored_against_others_and_changes_no_list():
    words = ["cat"]
    model = tiny_ovseg(fusion="best_mask", classifier="clip").eval()
    ((scores, maps),) = model.inspect([random_image(48, 96)], Vocabulary("one", tuple(words)))
    assert words == ["cat"]
    assert maps["proposals"].classes == ("cat", "others")
    assert scores.class_ids == (0,) and scores.background is not None
    pair = Vocabulary("two", ("cat", "others"))
    (both,) = model.predict([random_image(48, 96)], pair)
    torch.testing.assert_close(both.logits, scores.logits)  # the mask of "cat" alone
    torch.testing.assert_close(both.class_weights[:1], scores.class_weights)


def test_own_masks_are_classified_by_clip():
    model = tiny_ovseg().eval()
    image = random_image(48, 96)
    own = torch.zeros(3, 48, 96, dtype=torch.bool)
    own[0, :20, :30], own[1, 30:, 50:] = True, True  # and an empty one
    ((scores, maps),) = model.inspect([image], WORDS, masks=[own])
    proposals = maps["proposals"]
    assert proposals.proposals is None and proposals.valid.tolist() == [True, True, False]
    regions = model.encode_regions(image, own)
    text = model.encode_classes(WORDS.classes)
    expected = (100 * regions.embeddings @ text[:-1].T).softmax(1)
    torch.testing.assert_close(proposals.combined[:2], expected, rtol=1e-4, atol=1e-6)
    labels = pred_all_map(scores, 99)
    assert (labels[~own.any(0)] == 99).all()
    assert labels[0, 0] == expected[0].argmax() and labels[-1, -1] == expected[1].argmax()


def test_impossible_requests(model):
    image = random_image(40, 70)
    for masks in ([torch.ones(1, 40, 71, dtype=torch.bool)], [torch.ones(1, 40, 70)], [torch.ones(0, 40, 70).bool()]):
        with pytest.raises(ValueError, match=r"masks of image 0 are .* wanted bool \(count, 40, 70\)"):
            model.predict([image], WORDS, masks=masks)
    with pytest.raises(ValueError, match="masks for 2 images"):
        model.predict([image], WORDS, masks=[torch.ones(1, 40, 70).bool()] * 2)
    with pytest.raises(ValueError, match="class_ids must be different numbers"):
        model.predict([image], WORDS, class_ids=[4])
    with pytest.raises(ValueError, match="there are no images"):
        model.predict([], WORDS)
    for option, value in (("classifier", "both"), ("ensemble_weight", 0.0), ("fusion", "max"), ("crops_at_once", 0)):
        with pytest.raises(ValueError, match=option):
            tiny_ovseg(**{option: value})


def batch():
    labels = torch.full((64, 64), 255)
    labels[:20, :30], labels[30:, :] = 1, 3
    return {
        "images": [random_image(64, 64), random_image(48, 60, 1)],
        "part_maps": [labels, torch.full((48, 60), 255)],
        "vocabulary": WORDS,
        "image_ids": ["a", "b"],
    }


@pytest.mark.parametrize("size", [None, TINY_RESNET])
def test_everything_that_trains_gets_a_gradient(size):
    model = tiny_ovseg(**({} if size is None else {"size": size}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("clip.", "mask_prompt", "backbone.stem.", "backbone.res2.")) for name in trained)
    losses = model.loss(batch())
    assert set(losses) == {f"loss_{kind}{layer}" for kind in ("ce", "mask", "dice") for layer in ("", "_0")}
    sum(losses.values()).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained


def test_a_wrong_label_names_the_image():
    wrong = batch()
    wrong["part_maps"][1][0, 0] = 4
    with pytest.raises(ValueError, match="image 'b' holds label 4"):
        tiny_ovseg().loss(wrong)


def test_a_few_steps_learn_an_image():
    model = tiny_ovseg(1).train()
    optimiser = build_optimiser(model, TrainingSettings(iterations=15, learning_rate=5e-3, weight_decay=0.0))
    first = None
    for _ in range(15):
        optimiser.zero_grad()
        loss = sum(model.loss(batch()).values())
        loss.backward()
        optimiser.step()
        first = first or loss.item()
    assert loss.item() < 0.8 * first


def test_norms_queries_and_position_biases_do_not_decay():
    model = tiny_ovseg(lr_multipliers={"backbone": 0.1})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = model.parameter_groups(0.01)
    found = {(group["lr_multiplier"], group["weight_decay"]) for group in groups}
    assert found == {(0.1, 0.01), (0.1, 0.0), (1.0, 0.01), (1.0, 0.0)}
    free = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert "transformer_decoder.query_embed.weight" in free
    assert any(name.endswith("relative_position_bias_table") for name in free)
    assert "no_object_text" not in free and not any(name.endswith("qkv.bias") for name in free)


def test_text_embeddings_are_means_over_templates_of_verbatim_names(model):
    text = model.encode_classes(WORDS.classes)
    assert text.shape == (5, 16)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(text[-1:], F.normalize(model.no_object_text, dim=-1))

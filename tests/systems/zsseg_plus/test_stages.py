"""Pieces of both stages against closed formulas and torch's own modules."""

import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.models.maskformer.transformer_decoder import attend
from ovparts_lib.systems.zsseg_plus.ensemble import allowed_classes, ensembled, region_map
from ovparts_lib.systems.zsseg_plus.objects import find_objects
from ovparts_lib.systems.zsseg_plus.proposals import class_map, key_bias, object_feature, record_masks
from ovparts_lib.systems.zsseg_plus.regions import ObjectCrop, cut_object, pool_regions
from ovparts_lib.vocabularies import load_vocabulary
from tests.systems.zsseg_plus.tiny import VOCABULARY


def masks(count=2, height=96, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = torch.zeros(count, height, width)
    for mask in made:
        top, left = (int(torch.randint(side // 2, (), generator=generator)) for side in (height, width))
        mask[top : top + height // 3, left : left + width // 3] = 1
    return made


def test_the_object_feature_is_that_of_the_enlarged_features():
    features, objects = torch.randn(2, 5, 24, 16), masks()
    enlarged = F.interpolate(features, size=(96, 64), mode="nearest") * objects[:, None]
    assert torch.allclose(object_feature(features, objects), enlarged.mean((2, 3)), atol=1e-6)
    mean = enlarged.sum((2, 3)) / objects.sum((1, 2))[:, None]
    assert torch.allclose(object_feature(features, objects, "object"), mean, atol=1e-5)
    assert not object_feature(features, torch.zeros_like(objects), "object").any()


def test_the_key_mask_is_added_as_torch_adds_a_mask_of_floats():
    torch.manual_seed(0)
    attention, objects = torch.nn.MultiheadAttention(8, 2, batch_first=True), masks()
    query, key = torch.randn(2, 3, 8), torch.randn(2, 6, 8)
    outside = torch.stack([F.max_pool2d(each[None, None], 32)[0, 0] == 0 for each in objects]).flatten(1)
    assert outside.any()
    for rule, padding in (("released", outside.float()), ("hidden", outside)):
        wanted = attention(query, key, key, key_padding_mask=padding)[0]
        bias = key_bias(objects, rule)[:, None, None]
        assert torch.allclose(attend(attention, query, key, key, bias), wanted, atol=1e-6)
    assert not key_bias(torch.zeros(1, 32, 64), "hidden").any()


def test_the_class_map_is_the_dense_product():
    probabilities, logits = torch.rand(4, 7), 3 * torch.randn(4, 40, 24)
    dense = F.interpolate(logits[None], size=(160, 96), mode="bilinear", align_corners=False)[0, :, :150, :90].sigmoid()
    dense = torch.einsum("qc,qhw->chw", probabilities, dense)
    labels, kept = class_map(probabilities, logits, (150, 90), (160, 96), (5, 2))
    assert torch.equal(labels, dense.argmax(0))
    assert torch.allclose(kept, dense[[5, 2]], atol=1e-6)


def test_pixels_get_what_was_said_of_their_region():
    labels, probabilities = torch.randint(0, 9, (12, 10)), torch.rand(2, 3)
    found = region_map(labels, (3, 7), probabilities)
    for label in range(9):
        said = {3: probabilities[0], 7: probabilities[1]}.get(label, torch.zeros(3))
        assert torch.equal(found[:, labels == label].T, said.expand(int((labels == label).sum()), -1))


def test_the_ensemble_weighs_seen_and_unseen_classes_the_other_way_round():
    stage1, clip = torch.rand(2, 4, 5), torch.rand(2, 4, 5)
    found = ensembled(stage1, clip, (True, False), 0.7)
    assert torch.allclose(found[0], stage1[0] ** 0.7 * clip[0] ** 0.3)
    assert torch.allclose(found[1], stage1[1] ** 0.3 * clip[1] ** 0.7)


def test_regions_are_pooled_over_the_patches_they_touch():
    features, labels = torch.randn(6, 2, 2), torch.zeros(8, 8, dtype=torch.int64)
    labels[0, 5] = 1  # one pixel of the second patch
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4] = True
    pooled = pool_regions(features, ObjectCrop(torch.zeros(3, 8, 8), labels, inside, (0, 0, 8, 8)), (0, 1, 5))
    assert torch.allclose(pooled.regions[0], features[:, 0].mean(1), atol=1e-5)
    assert torch.allclose(pooled.regions[1], features[:, 0, 1], atol=1e-5)
    assert not pooled.regions[2].any()
    assert torch.allclose(pooled.whole, features[:, 0].mean(1), atol=1e-5)
    fused = pooled.fused(torch.tensor(0.25))
    assert torch.allclose(fused, 0.25 * pooled.regions + 0.75 * pooled.whole)


def test_a_crop_is_the_enlarged_box_cut_to_the_image():
    image, inside = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8), torch.zeros(40, 60, dtype=torch.bool)
    inside[2:22, 30:55] = True
    crop = cut_object(image, inside, inside.long() * 4, 16)
    assert crop.box == (27, 0, 57, 24)  # 30 to 55 and 2 to 22, a fifth more
    assert set(crop.labels.unique().tolist()) == {0, 4}
    assert torch.equal(crop.labels == 4, crop.inside)


def test_substrings_let_foreign_parts_in():
    assert allowed_classes(VOCABULARY, 0) == (0, 1)
    assert allowed_classes(VOCABULARY, 0, "substring") == (0, 1, 2, 3)
    ade, pascal = load_vocabulary("ade20k_part_234"), load_vocabulary("pascal_part_116")
    differ = {
        name
        for number, name in enumerate(ade.objects)
        if allowed_classes(ade, number) != allowed_classes(ade, number, "substring")
    }
    assert differ == {"bed", "chair", "door", "light", "oven", "shelf", "table", "washer"}
    owners = sorted(set(pascal.part_to_object))
    assert all(allowed_classes(pascal, n) == allowed_classes(pascal, n, "substring") for n in owners)
    with pytest.raises(ValueError, match="'sky' has no parts"):
        allowed_classes(VOCABULARY, 3)


def test_released_training_on_pascal_hides_objects_from_the_twelfth_on():
    pascal = load_vocabulary("pascal_part_116")
    table, seen = (
        pascal.table(pascal.seen),
        [o for o in pascal.objects if o not in pascal.unseen_objects and o in pascal.objects_with_parts],
    )
    shown = {
        name
        for number, name in enumerate(pascal.objects)
        if name in seen
        and record_masks([torch.full((2, 2), int(table[number]))], (4, 4), pascal.seen.ignore_label).any()
    }
    assert set(seen) - shown == {"horse", "person", "pottedplant", "train", "tvmonitor"}


def test_objects_are_found_where_their_parts_score_and_clip_agrees():
    probabilities = torch.zeros(2, 6)
    probabilities[0, 0] = probabilities[0, 4] = 0.5  # a chair's leg or a dog's head: CLIP decides
    probabilities[1, 3] = 0.9
    logits = torch.full((2, 16, 16), -20.0)
    logits[0, :8], logits[1, 12:] = 20.0, 20.0
    texts = F.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    clip = texts[4][:, None, None].expand(-1, 4, 4)
    arguments = (clip, texts, VOCABULARY, (64, 60), (64, 64))
    found = find_objects(probabilities, logits, *arguments, 100.0)
    assert [number for number, _ in found] == [1, 2]
    assert found[1][1][:30].all() and not found[1][1][34:].any()
    assert found[0][1][50:].all() and not found[0][1][:46].any()
    assert find_objects(probabilities, logits - 40, *arguments, 100.0) == []

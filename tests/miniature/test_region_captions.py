import numpy as np
import pytest
import torch

from ovparts_lib.miniature.canvas import NOTHING
from ovparts_lib.miniature.region_captions import LEAST_SHARE, CaptionedScenes, region_means, regions_of
from ovparts_lib.miniature.scene import LEAST_PIXELS, generator, render_scene
from ovparts_lib.vocabularies import load_vocabulary

VOCABULARY = load_vocabulary("pascal_part_116")


@pytest.fixture(scope="module")
def scenes():
    return CaptionedScenes(30, size=48, seed=3, progress=False)


def test_regions_are_the_boxes_of_all_objects_and_parts_of_which_enough_is_seen():
    for number in range(20):
        rng = generator(5, "regions", number)
        scene = render_scene(rng, VOCABULARY)
        height, width = scene.part_map.shape
        expected = []
        for instance in sorted({*np.unique(scene.instance_map)} - {NOTHING}):
            inside = scene.instance_map == instance
            if inside.sum() < LEAST_PIXELS:
                continue
            name = VOCABULARY.objects[scene.object_map[inside][0]]
            masks = [(None, inside)]
            for part_id in sorted({*np.unique(scene.part_map[inside])} - {NOTHING}):
                masks.append((VOCABULARY.pairs[part_id][1], inside & (scene.part_map == part_id)))
            for part, mask in masks:
                if mask.mean() >= LEAST_SHARE:
                    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
                    box = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
                    expected.append((name, part, *box))
        found = regions_of(scene, rng)
        assert [region.topic[1:] + region.box for region in found] == expected
        for region in found:
            assert all(region.topic[2] is None or region.topic[2] in caption for caption in region.captions)


def test_means_over_boxes_are_those_of_fine_pixels():
    # a patch that a box covers in part counts by that part: the same as repeating patches and cutting the box out
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 3, 4, generator=draw)
    fine = features.repeat_interleave(8, 2).repeat_interleave(8, 3)
    boxes = torch.tensor([[0, 0, 1, 1], [3 / 32, 5 / 24, 17 / 32, 6 / 24], [9 / 32, 1 / 24, 32 / 32, 23 / 24]])
    places = torch.tensor([1, 0, 1])
    means = region_means(features, places, boxes)
    for mean, place, (left, top, right, bottom) in zip(means, places, boxes, strict=True):
        window = fine[place, :, round(top.item() * 24) : round(bottom.item() * 24)]
        window = window[:, :, round(left.item() * 32) : round(right.item() * 32)]
        torch.testing.assert_close(mean, window.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_drawn_boxes_show_what_they_showed_before_mirroring(scenes):
    draw = torch.Generator().manual_seed(0)
    pictures, regions, places, boxes = scenes.draw(8, 25, draw)
    assert pictures.shape == (8, 3, 48, 48) and len(regions.unique()) == len(regions) <= 25
    mirrored = 0
    for region, place, box in zip(regions, places, boxes, strict=True):
        before, own = scenes.pictures[scenes.scene_of[region]], scenes.boxes[region]
        if torch.equal(pictures[place], before):
            assert torch.equal(box, own)
        else:
            mirrored += 1
            torch.testing.assert_close(pictures[place], before.flip(-1))
            torch.testing.assert_close(box, torch.stack([1 - own[2], own[1], 1 - own[0], own[3]]))
    assert 0 < mirrored < len(regions)


def test_scenes_are_reproducible_and_need_not_be_drawn_in_one_go(scenes):
    fewer = CaptionedScenes(4, size=48, seed=3, progress=False)
    assert torch.equal(fewer.pictures, scenes.pictures[:4])
    assert (
        fewer.captions == scenes.captions[: len(fewer.captions)] and fewer.topics == scenes.topics[: len(fewer.topics)]
    )

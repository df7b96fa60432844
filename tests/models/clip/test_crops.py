"""Masked crops, patch masks and mask prompts against brute force and open_clip."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.images import CLIP_STATISTICS
from ovparts_lib.models.clip.crops import CropRule, cut_crops, expand_box, mask_boxes
from ovparts_lib.models.clip.token_masks import mask_prompts, patch_masks
from ovparts_lib.models.clip.towers import MINIATURE, build_clip, image_embeddings


def test_boxes_are_tight_and_empty_masks_have_none():
    masks = torch.zeros(4, 9, 12, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[0, 3, 4] = False
    masks[1, 8, 11] = True
    masks[3] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 9, 5], [11, 8, 12, 9], [0, 0, 0, 0], [0, 0, 12, 9]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_boxes_grow_about_their_centre_within_the_image():
    assert expand_box((3, 2, 9, 5), 1.0, 9, 12) == (3, 2, 9, 5)
    assert expand_box((3, 2, 9, 5), 1.5, 9, 12) == (1, 1, 10, 5)  # 1.5, 1.25, 10.5, 5.75, cut down
    assert expand_box((0, 0, 12, 9), 2.0, 9, 12) == (0, 0, 12, 9)


@pytest.mark.parametrize(("fill", "colour"), [("mean", CLIP_STATISTICS[0]), ("zero", (0, 0, 0))])
def test_pixels_outside_the_mask_have_the_fills_colour(fill, colour):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    probability = torch.zeros(1, 8, 8)
    probability[0, :, :4], probability[0, 0, 4:] = 0.9, 0.6
    boxes = mask_boxes(probability > 0.5)
    crops, masks = cut_crops(image, probability, boxes, 8, CropRule(0.5, fill=fill))
    filled = image.clone().float()
    filled[:, 1:, 4:] = torch.tensor(colour).view(3, 1, 1)
    expected, _ = cut_crops(filled, torch.ones(1, 8, 8), boxes, 8, CropRule(0.5))
    torch.testing.assert_close(crops, expected)
    if fill == "mean":
        assert crops[0, :, 1:, 4:].abs().max() < 1e-5
    np.testing.assert_array_equal(masks[0], probability[0] > 0.5)
    soft, masks = cut_crops(image, probability, boxes, 8, CropRule(0.5, matting=True))
    np.testing.assert_array_equal(masks[0], probability[0])
    assert not torch.allclose(soft, crops)


def test_rules_out_of_range():
    for wrong in ({"threshold": 1.0}, {"expand": 0.0}, {"fill": "grey"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CropRule(**wrong)


def test_one_pixel_keeps_a_patch():
    masks = torch.zeros(2, 16, 24)
    masks[0, 7, 8], masks[1, 15, 23] = 1, 0.01
    assert patch_masks(masks, 8).tolist() == [[False, True, False] + 3 * [False], 5 * [False] + [True]]


def test_embeddings_are_open_clips_without_a_hook():
    torch.manual_seed(0)
    visual = build_clip(MINIATURE).eval().visual
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(image_embeddings(visual, pixels), visual(pixels), rtol=1e-4, atol=1e-5)


def test_mask_prompts_replace_blank_patches_before_the_tower_and_after_its_first_blocks():
    torch.manual_seed(0)
    visual = build_clip(MINIATURE).eval().visual
    pixels, prompts = torch.randn(2, 3, 64, 64), torch.randn(3, 64, 96)
    kept = torch.rand(2, 64) > 0.5
    found = image_embeddings(visual, pixels, after_block=mask_prompts(visual, prompts, kept))

    blank = ~kept[..., None]
    tokens = visual.conv1(pixels).flatten(2).transpose(1, 2)
    tokens = torch.where(blank, prompts[0], tokens)
    tokens = torch.cat([visual.class_embedding.expand(2, 1, -1), tokens], dim=1) + visual.positional_embedding
    tokens = visual.ln_pre(tokens)
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        tokens = block(tokens)
        if number < 3:
            tokens = torch.cat([tokens[:, :1], torch.where(blank, prompts[number], tokens[:, 1:])], dim=1)
    expected = visual.ln_post(tokens[:, 0]) @ visual.proj
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(F.normalize(found, dim=-1), F.normalize(visual(pixels), dim=-1), atol=1e-3)
    with pytest.raises(ValueError, match="64 patches, the image has 16"):
        mask_prompts(visual, prompts, kept[:, :16])

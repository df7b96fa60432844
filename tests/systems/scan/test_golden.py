"""SCAN against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

import re
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.models.clip.crops import CropRule
from ovparts_lib.systems.ensemble import clip_classes
from ovparts_lib.systems.mask_classifier import cut, embed_crops
from ovparts_lib.systems.scan.contextual_shift import contextual_shift
from ovparts_lib.systems.scan.options import PRESETS
from ovparts_lib.systems.scores import Scores
from tests.golden.fill import image
from tests.golden.released_scan import arrays, scale_of, vitb_scan, vitl_scan

RELATIVE = 1e-4  # of an array's largest value
# where noise of 0.001 grey levels on the image changes more than that, see the recording's table of sensitivity
LOGITS = 1e-3
FEATURES = 6e-4  # of crops, relative
# Logits of masks agree to RELATIVE at least, so that a pixel whose probability is this near to the threshold may be on
# its other side; with one pixel more or less, a crop's features differ by more than rounding makes.
UNDECIDED, FLIPS = 1e-5, 4  # and how many pixels of one mask may be
ROUNDING = 2e-5  # of crops whose masks agree, relative


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def assert_close(found, expected, name, relative=RELATIVE):
    found = np.asarray(found)
    assert found.shape == expected.shape, name
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max(), err_msg=name)


def recorded_shift(golden, kept, blocks):
    """The recording's random choice: bool (v, patches) by block."""
    counts, places = golden["replaced_count"], golden["replaced_index"].astype(np.int64)
    shifted, start = {}, 0
    for row, block in enumerate(blocks):
        chosen = torch.zeros_like(kept)
        for region, count in enumerate(counts[row]):
            chosen[region, places[start : start + count]] = True
            start += count
        shifted[block] = chosen
        assert not (chosen & kept).any()
    assert start == len(places)
    return shifted


def out_of_vocabulary(model, crops, context, golden):
    """Region features with the recorded random choice, and what embeds a region's crop anew with it."""
    shifted = recorded_shift(golden, crops.kept, model.size.shift_blocks)
    tokens = {block: states[0] for block, states in context.class_tokens.items()}

    def again(region, crop):
        chosen = {block: rows[region : region + 1] for block, rows in shifted.items()}
        return embed_crops(model.clip.visual, crop, 1, partial(contextual_shift, tokens, chosen))[0]

    return embed_crops(model.clip.visual, crops, 4, partial(contextual_shift, tokens, shifted)), again


def flipped(mask, place, threshold):
    """A mask with one pixel on the other side of the threshold."""
    other = mask.flatten().clone()
    other[place] = threshold + (UNDECIDED if other[place] <= threshold else -UNDECIDED)
    return other.view(mask.shape)


def check_region_features(features, again, model, pixels, masks, threshold, recorded):
    """Features of all regions; of one that differs, few undecided pixels must make the difference.

    Returns:
        The features with those pixels on the other side, which is what the recording went on with.
    """
    largest, features = np.abs(recorded).max(), features.clone()

    def error(feature, region):
        return np.abs(feature[::8].numpy() - recorded[region]).max() / largest

    def embedded(region, mask):
        return again(region, cut(pixels, mask[None], CropRule(threshold), model.clip.visual))

    for region, mask in enumerate(masks):
        undecided = ((mask - threshold).abs() < UNDECIDED).flatten().nonzero()[:, 0].tolist()
        for _ in range(FLIPS):
            if error(features[region], region) <= ROUNDING or not undecided:
                break
            others = {place: embedded(region, flipped(mask, place, threshold)) for place in undecided}
            place = min(others, key=lambda place: error(others[place], region))
            if error(others[place], region) >= error(features[region], region):
                break
            features[region], mask = others[place], flipped(mask, place, threshold)
            undecided.remove(place)
        assert error(features[region], region) <= FEATURES, region
    return features


def check_adapter(model, name):
    """Crops, contextual shift, both rules of the ensemble, on masks with formulas."""
    facts, golden = arrays(name)
    height, width = facts["image"]["size"]
    pixels = picture(height, width, facts["image"]["seed"])
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.array([height, width], np.float32).reshape(2, 1, 1)

    def disc(cx, cy, radius):
        return np.clip(0.5 + (radius - np.hypot(x - cx, y - cy)) * 6, 0, 1)

    shapes = {
        "disc": disc(0.3, 0.4, 0.2),
        "small disc": disc(0.8, 0.75, 0.05),
        "ring": np.clip(1 - np.abs(np.hypot(x - 0.5, y - 0.5) - 0.3) * 8, 0, 1),
        "stripe": np.clip(1 - np.abs(x - 0.62) * 40, 0, 1),
        "everything": np.full_like(x, 0.9),
        "nothing": np.full_like(x, 0.01),
        "two discs": np.maximum(disc(0.2, 0.8, 0.1), disc(0.75, 0.2, 0.12)),
        "corner": disc(1, 1, 0.25),
    }
    masks = torch.from_numpy(np.stack([shapes[shape] for shape in facts["masks"]]).astype(np.float32))
    assert facts["replace_layers"] == list(model.size.shift_blocks)
    with torch.inference_mode():
        text = model.encode_classes(facts["class_names"])
        # the original CLIP sees the image without padding here: its sides are multiples of 32 or nearly
        context = model.encode_context([pixels])
        assert_close(context.embedding[0], golden["oc_final_cls"], "oc_final_cls")
        assert_close(torch.cat(list(context.class_tokens.values())), golden["oc_cls"], "oc_cls")
        crops = cut(pixels, masks, CropRule(facts["mask_thr"]), model.clip.visual)
        np.testing.assert_array_equal(crops.valid, golden["valid"])
        np.testing.assert_array_equal(crops.boxes, golden["boxes"])
        np.testing.assert_array_equal(crops.kept, golden["token_mask"].astype(bool))
        assert_close(crops.pixels[:, :, ::8, ::8], golden["crops"], "crops")
        logits = model.size.clip.temperature * out_of_vocabulary(model, crops, context, golden)[0] @ text.T
        np.testing.assert_allclose(logits, golden["region_logits"], rtol=0, atol=LOGITS)
        plain = model.size.clip.temperature * embed_crops(model.clip.visual, crops, 8) @ text.T
        np.testing.assert_allclose(plain, golden["region_logits_no_replacement"], rtol=0, atol=LOGITS)
        generator = np.random.Generator(np.random.PCG64(502))
        in_logits = 3 * generator.standard_normal((len(masks), text.shape[0]), np.float32)
        np.testing.assert_array_equal(in_logits, golden["in_logits"])
        model.ensemble_weight = facts["ensemble_weight"]
        for model.second_normalisation, key in ((True, "scores_log"), (False, "scores_plain")):
            scores = model.join_branches(torch.from_numpy(in_logits), clip_classes(logits), crops.valid)
            assert_close(scores, golden[key], key, 1e-3)


def check_evaluation(model, name, preset, thinned=1):
    """All stages of one picture, to the map of classes."""
    facts, golden = arrays(name)
    size, settings, step = model.size, facts["settings"], slice(None, None, thinned)
    assert settings["MASK_THR"] == preset.mask_threshold and settings["REPLACE_RATIO"] == preset.shift_ratio
    assert settings["CLIP_ENSEMBLE_WEIGHT"] == preset.ensemble_weight
    assert settings["second_normalisation"] == preset.second_normalisation
    height, width = golden["label_map"].shape
    seed = re.match(rf"fill\.image\({height}, {width}, (\d+)\)", facts["input"])[1]
    pixels = model.resized(picture(height, width, int(seed)))
    np.testing.assert_array_equal(pixels[:, ::40, ::40], golden["in_u8"])
    with torch.inference_mode():
        # the frozen CLIP and SIM's memory
        context = model.encode_context([pixels])
        assert_close(context.embedding[0], golden["oc_final_cls"], "oc_final_cls")
        assert_close(torch.cat(list(context.class_tokens.values())), golden["oc_cls"], "oc_cls")
        assert_close(context.memory[0, ::12, ::8], golden["sim_memory"], "sim_memory")
        # proposals
        inputs = model.padded([pixels])
        features = model.backbone(inputs)
        for level, (channels, stride) in enumerate(((16, 16), (32, 8), (32, 4), (64, 2)), start=2):
            key = f"res{level}"
            assert_close(features[level - 2][0, ::channels, ::stride, ::stride], golden[key], key)
        maps, mask_features = model.pixel_decoder(features)
        for number, stride in enumerate((2, 4, 8)):
            assert_close(maps[number][0, ::32, ::stride, ::stride], golden[f"ms{number}"], f"ms{number}")
        assert_close(mask_features[0, ::32, ::16, ::16], golden["mask_features"], "mask_features")
        states = model.decoder(maps, mask_features)
        embeddings = model.decoder.class_embed(states)
        assert_close(embeddings[-1, 0, step, ::8], golden["query_logits"], "query_logits")
        assert_close(embeddings[:-1, 0, step, ::32], golden["aux_query_logits"], "aux_query_logits")
        for number, state in enumerate(states[:-1]):
            means = model.decoder.mask_logits(state, mask_features)[0, step].mean((1, 2))
            assert_close(means, golden["aux_mask_mean"][number], "aux_mask_mean", 3e-4)
        mask_logits = model.decoder.mask_logits(states[-1], mask_features)[0]
        assert_close(mask_logits[step, ::16, ::16], golden["pred_masks"], "pred_masks")
        del features, maps, mask_logits
        # in-vocabulary branch
        text = model.encode_classes(facts["class_names"])
        assert_close(text[:: 2 if thinned > 1 else 1, ::16], golden["text"], "text")
        fused = model.integration.fusion(embeddings[-1], context.memory)[0]
        assert_close(fused[step, ::8], golden["fusion_out"], "fusion_out")
        calibrated = model._calibrated(embeddings[-1:], context)[0, 0]
        assert_close(calibrated[step, ::8], golden["encoder_out"], "encoder_out")
        logits = model._class_logits(calibrated, text)
        np.testing.assert_allclose(logits[step], golden["in_logits"], rtol=0, atol=LOGITS)
        # out-of-vocabulary branch
        with patch.object(model, "_query_states", return_value=(states, mask_features)):  # computed above
            masks, proposed = model.propose_masks(pixels)
        assert torch.equal(proposed, embeddings[-1, 0])
        del states, mask_features
        assert_close(masks[step, ::40, ::40], golden["mask_prob"], "mask_prob", 2e-4)
        crops = cut(pixels, masks, CropRule(preset.mask_threshold), model.clip.visual)
        np.testing.assert_array_equal(crops.valid, golden["valid"])
        np.testing.assert_array_equal(crops.boxes, golden["boxes"])
        np.testing.assert_array_equal(np.packbits(crops.kept.numpy(), axis=1), golden["region_token_mask"])
        assert_close(crops.pixels[step, :, ::28, ::28], golden["crops"], "crops")
        features, again = out_of_vocabulary(model, crops, context, golden)
        arguments = masks[crops.valid], preset.mask_threshold, golden["region_features"]
        features = check_region_features(features, again, model, pixels, *arguments)
        region_logits = model.size.clip.temperature * features @ text.T
        np.testing.assert_allclose(region_logits[step], golden["region_logits"], rtol=0, atol=2e-3)
        # ensemble and class maps
        model.ensemble_weight, model.second_normalisation = preset.ensemble_weight, preset.second_normalisation
        class_scores = model.join_branches(logits, clip_classes(region_logits), crops.valid)
        assert_close(class_scores[step], golden["class_scores"], "class_scores", 5e-4)
        ids = tuple(range(len(text) - 1))
        scores = Scores(masks, ids, None, (height, width), class_weights=class_scores.T)
        chosen = scores.class_maps(ids[:: 5 if thinned > 1 else 1])
        semseg = F.interpolate(chosen[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        assert_close(semseg[:, ::40, ::40], golden["semseg"], "semseg", 2e-4)
        agreement = (pred_all_map(scores).numpy() == golden["label_map"]).mean()
        assert agreement > 0.9999
    assert size.queries == settings["NUM_OBJECT_QUERIES"]


@pytest.mark.slow
def test_crops_contextual_shift_and_ensembles_vitb():
    check_adapter(vitb_scan()[0], "golden_vitb_adapter")


def test_every_stage_of_an_evaluation_vitb():
    check_evaluation(vitb_scan()[0], "golden_vitb_voc20_eval", PRESETS["released_vitb"]["pascal_voc_20"])


@pytest.mark.slow
def test_every_stage_of_an_evaluation_and_the_adapter_vitl():
    model = vitl_scan(12, scale_of("golden_vitl_ade150_eval"))[0]
    check_adapter(model, "golden_vitl_adapter")
    check_evaluation(model, "golden_vitl_ade150_eval", PRESETS["released"]["ade20k_150"])


@pytest.mark.slow
def test_every_stage_of_an_unreduced_evaluation_vitl():
    model = vitl_scan(100, scale_of("golden_vitl_ade150_full_eval"))[0]
    check_evaluation(model, "golden_vitl_ade150_full_eval", PRESETS["released"]["ade20k_150"], thinned=8)

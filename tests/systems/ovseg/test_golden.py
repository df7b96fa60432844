"""OVSeg against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.data.transforms import resize_image, shortest_edge_size
from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.models.clip.crops import CropRule, cut_crops, mask_boxes
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.systems.ensemble import clip_classes, fuse_masks, geometric_ensemble, proposal_classes
from ovparts_lib.systems.ovseg.weights import released_names
from ovparts_lib.systems.proposals import ProposalMaps
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import Vocabulary
from tests.golden.fill import image
from tests.golden.released_ovseg import arrays, r101c_ovseg, swin_ovseg

RELATIVE = 1e-4  # of an array's largest value
LOGITS = 2e-3  # of logits at temperature 100


def words(names, ignore_label=255):
    return Vocabulary("recorded", tuple(names), ignore_label=ignore_label)


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def assert_close(found, expected, name, relative=RELATIVE):
    found = np.asarray(found)
    assert found.shape == expected.shape, name
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max(), err_msg=name)


@contextmanager
def options(model, **changed):
    """The model with other options for a while; its weights are left alone."""
    kept = {name: getattr(model, name) for name in changed}
    for name, value in changed.items():
        setattr(model, name, value)
    try:
        yield model
    finally:
        for name, value in kept.items():
            setattr(model, name, value)


VARIANTS = {
    "default": {},
    "no_mask_prompt": {"mask_prompts": False},
    "no_ensemble": {"classifier": "proposals"},
    "clip_only": {"classifier": "clip"},
    "matting": {"crop_rule": CropRule(0.5, matting=True)},
    "expand_1_5": {"crop_rule": CropRule(0.5, expand=1.5)},
    "fill_zero": {"crop_rule": CropRule(0.5, fill="zero")},
    "demo": {"classifier": "clip", "fusion": "best_mask"},
}


def check_adapter_variant(model, name, variant):
    """One variant of the CLIP branch and the fusion on hand-made masks."""
    facts, golden = arrays(name)
    names = tuple(facts["class_names"])
    pixels = picture(240, 320, 7) if name.endswith("vitB") else picture(180, 220, 8)
    masks = (torch.from_numpy(golden["mask_logits_x8"]).float() / 8).sigmoid()
    logits = torch.from_numpy(golden["mask_cls_logits"])
    text = model.encode_classes(names)
    with torch.inference_mode(), options(model, **VARIANTS[variant]):
        proposals = proposal_classes(logits)
        clip, valid, boxes = None, None, None
        if variant != "no_ensemble":
            regions = model.encode_regions(pixels, masks)
            recorded = {key.partition("/")[2]: golden[key] for key in golden.files if key.startswith(f"{variant}/")}
            np.testing.assert_array_equal(regions.valid.numpy(), recorded["valid"].astype(bool))
            np.testing.assert_array_equal(regions.boxes.numpy(), recorded["bboxes"])
            crops, kept = cut_crops(pixels, masks[regions.valid], regions.boxes, 224, model.crop_rule)
            assert_close(crops[:, :, ::16, ::16], recorded["regions"], "regions")
            assert_close(kept[:, ::4, ::4], recorded["region_masks"], "region_masks")
            if "patch_mask" in recorded:
                patches = patch_masks(kept, model.size.clip.patch_size)
                np.testing.assert_array_equal(patches.numpy(), recorded["patch_mask"].astype(bool))
            assert_close(regions.embeddings[:, ::8], recorded["clip_feature"], "clip_feature")
            clip_logits = 100 * regions.embeddings @ text.T
            np.testing.assert_allclose(clip_logits.numpy(), recorded["clip_logits"], rtol=0, atol=LOGITS)
            clip, valid, boxes = clip_classes(clip_logits), regions.valid, regions.boxes
        combined = model.combine(proposals, clip, valid)
        maps = ProposalMaps(pixels, masks, proposals, clip, valid, boxes, combined, names)
        cut_at = facts["mask_thr"] if model.fusion == "best_mask" else None
        scores = fuse_masks(maps, tuple(pixels.shape[-2:]), tuple(range(len(names))), cut_at=cut_at)
    assert_close(scores.class_maps()[:, ::8, ::8], golden[f"{variant}/semseg"], "semseg")


@pytest.mark.parametrize("variant", VARIANTS)
def test_crops_clip_logits_and_fusion_on_hand_made_masks(variant):
    check_adapter_variant(r101c_ovseg()[0], "golden_adapter_vitB", variant)


def proposals_of(model, name, size):
    """(facts, recording, resized image, text, masks, logits) of an evaluation case; the proposals are checked."""
    facts, golden = arrays(name)
    pixels = resize_image(size, shortest_edge_size(*size.shape[-2:], model.size.shortest_edge, model.size.longest_edge))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0)[::8, ::8].numpy(), golden["resized_image"])
    with torch.inference_mode():
        inputs = model.padded([pixels])
        assert list(inputs.shape) == facts["net_input_shape"]
        assert_close(inputs[0, :, ::16, ::16], golden["net_input"], "net_input")
        features = model.backbone(inputs)
        for level, (maps, step, channels) in enumerate(zip(features, (16, 8, 4, 4), (8, 16, 32, 32), strict=True)):
            key = f"backbone_res{level + 2}"
            assert_close(maps[0, ::channels, ::step, ::step], golden[key], key)
        mask_features = model.pixel_decoder(features)
        assert_close(mask_features[0, ::16, ::8, ::8], golden["mask_features"], "mask_features")
        states = model.transformer_decoder(features[-1])
        assert_close(states[-1, 0, ::5, ::4], golden["hs_last"], "hs_last")
        embeddings = model.transformer_decoder.class_embed(states[-1])
        assert_close(embeddings[0, ::5, ::4], golden["class_embed"], "class_embed")
        logits = model.transformer_decoder.mask_logits(states[-1], mask_features)
        assert_close(logits[0, ::5, ::8, ::8], golden["pred_masks"], "pred_masks")
        text = model.encode_classes(facts["class_names"])
        assert_close(text[:, ::16], golden["text_features"], "text_features")
        masks, classes = model.propose(pixels, text)
        np.testing.assert_allclose(classes.numpy(), golden["proposal_logits"], rtol=0, atol=LOGITS)
    return facts, golden, pixels, text, masks, classes


def check_regions(model, golden, pixels, text, masks, every):
    """Boxes and patches of all regions, crops of every tenth, CLIP's embeddings of every ``every``-th."""
    threshold = model.crop_rule.threshold
    boxes = mask_boxes(masks > threshold)
    valid = boxes[:, 2] > 0
    np.testing.assert_array_equal(valid.numpy(), golden["valid"].astype(bool))
    np.testing.assert_array_equal(boxes[valid].numpy(), golden["bboxes"])
    crops, kept = cut_crops(pixels, masks[valid], boxes[valid], 224, model.crop_rule)
    assert_close(crops[::10, :, ::16, ::16], golden["regions"], "regions")
    # a pixel whose probability is at the threshold may fall to either side, and changes its crop a little
    differing = np.unpackbits(np.packbits(kept[::10].numpy() > 0, axis=-1) ^ golden["region_masks"])
    assert differing.mean() < 1e-5
    patches = patch_masks(kept, model.size.clip.patch_size)
    np.testing.assert_array_equal(np.packbits(patches.numpy(), axis=-1), golden["patch_mask"])
    with torch.inference_mode():
        regions = model.encode_regions(pixels, masks[valid][::every])
    recorded = golden["clip_region_feature"][::every]
    errors = np.abs(regions.embeddings[:, ::16].numpy() - recorded).max(1) / np.abs(recorded).max()
    assert np.median(errors) < RELATIVE and errors.max() < 20 * RELATIVE
    logits = 100 * regions.embeddings @ text.T
    errors = np.abs(logits.numpy() - golden["clip_logits"][::every]).max(1)
    assert np.median(errors) < LOGITS and errors.max() < 20 * LOGITS


def check_scores(scores, facts, golden):
    """Class maps at the original size, their sums, and the arg-max where it is not a tie."""
    maps = F.interpolate(scores.class_maps()[None], size=scores.image_size, mode="bilinear", align_corners=False)[0]
    step = facts["arrays"]["semseg_out"]["what"].partition("slice [::")[2].partition(",")[0]
    assert_close(maps[:: int(step), ::16, ::16], golden["semseg_out"], "semseg_out", 3e-4)
    np.testing.assert_allclose(maps.double().sum((1, 2)), facts["class_score_sums"]["values"], rtol=3e-4)
    two = maps.topk(2, dim=0).values[:, ::2, ::2]
    clear = (two[0] - two[1] > 3e-4 * two[0]).numpy()
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(pred_all_map(scores)[::2, ::2].numpy()[clear], golden["argmax"][clear])


@contextmanager
def overridden(model, **factors):
    """A copy of the model in which some parameters are multiplied; the rest is shared."""
    kept = {name: model.get_parameter(name).data for name in factors}
    for name, factor in factors.items():
        model.get_parameter(name).data = kept[name] * factor
    try:
        yield model
    finally:
        for name, value in kept.items():
            model.get_parameter(name).data = value


def from_recorded_clip_logits(model, golden, masks, classes, size, key="clip_logits", weight=0.7):
    """Scores of proposals that were computed here, with the recorded logits of all 100 crops."""
    valid = torch.from_numpy(golden["valid"].astype(bool))
    clip = clip_classes(torch.from_numpy(golden[key]))
    combined = geometric_ensemble(proposal_classes(classes), clip, valid, weight, "as_released")
    return Scores(masks, tuple(range(combined.shape[1])), None, size, class_weights=combined.T)


def test_evaluation_with_r101c_on_voc_20():
    factors = {"transformer_decoder.query_embed.weight": 32}
    with overridden(r101c_ovseg()[0], **factors) as model:
        case = proposals_of(model, "golden_r101c_vitB_pas20_eval", picture(375, 500, 1))
        facts, golden, pixels, text, masks, classes = case
        check_regions(model, golden, pixels, text, masks, every=20)
    check_scores(from_recorded_clip_logits(model, golden, masks, classes, (375, 500), weight=0.45), facts, golden)


@pytest.mark.slow
def test_evaluation_with_r101c_on_ade_150_and_its_ablations():
    model, _ = r101c_ovseg()
    pixels, name = picture(384, 512, 0), "golden_r101c_vitB_a150_eval"
    facts, golden, *_ = proposals_of(model, name, pixels)
    vocabulary = words(facts["class_names"])
    (scores,) = model.predict([pixels], vocabulary)
    check_scores(scores, facts, golden)
    with options(model, classifier="proposals"):
        (scores,) = model.predict([pixels], vocabulary)
    enlarged = F.interpolate(scores.class_maps()[None], size=(384, 512), mode="bilinear", align_corners=False)[0]
    assert_close(enlarged[::3, ::16, ::16], golden["ablation_d_semseg_out"], "no ensemble", 3e-4)
    with options(model, mask_prompts=False):
        (scores,) = model.predict([pixels], vocabulary)
    enlarged = F.interpolate(scores.class_maps()[None], size=(384, 512), mode="bilinear", align_corners=False)[0]
    assert_close(enlarged[::3, ::16, ::16], golden["ablation_c_semseg_out"], "no mask prompts", 3e-4)


@pytest.mark.slow
def test_evaluation_with_swin_on_ade_150_and_hand_made_masks():
    model, _ = swin_ovseg()
    case = proposals_of(model, "golden_swinB_vitL_a150_eval", picture(360, 384, 5))
    facts, golden, pixels, text, masks, classes = case
    check_regions(model, golden, pixels, text, masks, every=10)
    check_scores(from_recorded_clip_logits(model, golden, masks, classes, (360, 384)), facts, golden)
    model.crop_rule = CropRule(0.4)
    for variant in ("default", "no_mask_prompt", "clip_only", "demo"):
        check_adapter_variant(model, "golden_adapter_vitL", variant)


def training_batch(facts):
    """Images and label maps of a recorded training step."""
    images, labels = [], []
    for item in facts["items"]:
        size, _, seed = (int(part) for part in item["image"].removeprefix("fill.image(").removesuffix(")").split(","))
        images.append(picture(size, size, seed))
        rows, columns = item["label_grid"]
        row, column = (np.arange(size) * count // size for count in (rows, columns))
        ids = np.asarray(item["label_ids"]).reshape(rows, columns)
        labels.append(torch.from_numpy(ids[row][:, column]))
    return {"images": images, "part_maps": labels, "vocabulary": words(facts["class_names"])}


def check_training_step(model, name):
    """Losses, matching and gradients of one step, with dropout and stochastic depth off as in the recording."""
    facts, _ = arrays(name)
    batch = training_batch(facts)
    losses = model.loss(batch)
    assert set(losses) == set(facts["losses_weighted"])
    for key, value in facts["losses_weighted"].items():
        assert losses[key].item() == pytest.approx(value, rel=1e-3), key
    total = sum(losses.values())
    assert total.item() == pytest.approx(facts["total_loss"], rel=1e-3)
    total.backward()
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    norms = {key: parameter.grad.norm() for key, parameter in released_names(trained).items()}
    for key, value in facts["grad_l2_norms"].items():
        assert norms[key].item() == pytest.approx(value, rel=5e-3, abs=1e-5), key
    model.zero_grad()
    whole = torch.stack(list(norms.values())).norm().item()
    assert whole == pytest.approx(facts["grad_l2_norm_total"], rel=5e-3)


def test_training_step_with_r101c():
    check_training_step(r101c_ovseg()[0], "golden_r101c_vitB_train")


@pytest.mark.slow
def test_training_step_with_swin():
    check_training_step(swin_ovseg()[0], "golden_swinB_vitL_train")

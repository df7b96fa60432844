"""ZSSeg+ against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.models.maskformer.matching import match_maskformer, segments_of
from ovparts_lib.systems.zsseg_plus.ensemble import allowed_classes, region_map
from ovparts_lib.systems.zsseg_plus.inference import join_stages, name_regions, prepare_image, resized_mask
from ovparts_lib.systems.zsseg_plus.proposals import class_map, key_bias, object_feature
from ovparts_lib.systems.zsseg_plus.regions import cut_object, dense_features, pool_regions
from ovparts_lib.systems.zsseg_plus.weights import released_names
from ovparts_lib.training.optimisers import build_optimiser
from ovparts_lib.training.settings import TrainingSettings
from ovparts_lib.vocabularies import load_vocabulary
from tests.golden.fill import fill, image
from tests.golden.released_zsseg_plus import read_arrays, read_json, released_zsseg_plus, scene

PASCAL = load_vocabulary("pascal_part_116")


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def close(found, golden, tolerance=1e-4):
    """Largest difference at most ``tolerance`` of the largest value."""
    found, golden = found.detach().double(), golden.double()
    assert found.shape == golden.shape
    assert (found - golden).abs().max() <= tolerance * golden.abs().max().clamp(min=1e-12)


@pytest.fixture(scope="module")
def evaluation():
    return read_arrays("golden_voc_eval.npz")


@pytest.fixture(scope="module")
def region():
    return read_arrays("golden_voc_region.npz")


def region_of(case, height, width):
    facts = read_json(case)["input"]
    inside, _ = scene(height, width, facts["ellipse"], 1)
    return ObjectRegion.of(facts["object_id"], inside), torch.from_numpy(inside)


def test_the_loader_uses_every_tensor_of_the_manifest():
    model, report = released_zsseg_plus()
    facts = read_json("golden_voc_eval.json")["parameters"]
    assert sum(p.numel() for p in model.parameters()) == facts["total_unique"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == facts["trainable"]
    assert len(report.loaded) + len(report.dropped) == 724
    assert sorted(name.rsplit(".", 1)[-1] for name in report.dropped) == [
        "empty_weight", "fuse_weight", "pad_signal", "ss_signal"
    ]  # fmt: skip
    assert report.initialised == ()


@torch.inference_mode()
def test_stage_1_of_the_evaluation(evaluation):
    model, _ = released_zsseg_plus()
    prepared = prepare_image(model, picture(375, 500, 0))
    mask = resized_mask(region_of("golden_voc_eval.json", 375, 500)[0], prepared, "floor")
    assert torch.equal(prepared.pixels[:, ::16, ::16], evaluation["image_resized"])
    assert torch.equal(mask[::4, ::4], evaluation["object_mask_resized"] > 0)
    features = prepared.features
    close(features.coarse[0, ::128], evaluation["backbone_res5"])
    close(features.mask_features[0, ::16, ::8, ::8], evaluation["mask_features"])
    masks = F.pad(mask.float(), (0, 704 - 683))[None]
    close(key_bias(masks)[0], evaluation["cross_attn_bias"])
    close(object_feature(features.mask_features, masks)[0], evaluation["object_feature"])
    states = model.transformer_decoder(features.coarse, key_bias(masks))
    close(states[0, 0], evaluation["decoder_out_first"])
    close(states[-1, 0], evaluation["decoder_out_last"])
    proposals = model.propose(features, masks, last_only=True)
    close(proposals.class_embeddings[-1, 0], evaluation["class_embedding_last"])
    close(proposals.mask_logits[-1, 0, :, ::8, ::8], evaluation["pred_masks"])
    texts = model.encode_vocabulary(PASCAL)
    logits = model.class_logits(proposals.class_embeddings[-1, 0], texts)
    close(texts, evaluation["text_features"][:-1])
    close(F.normalize(model.no_object_text)[0], evaluation["text_features"][-1])
    close(logits, evaluation["pred_logits"])
    probabilities = logits.softmax(-1)[:, :-1]
    labels, scores = class_map(probabilities, proposals.mask_logits[-1, 0], (512, 683), (512, 704), range(116))
    close(scores[:, ::32, ::32], evaluation["proposal_semseg"])
    assert torch.equal(labels[::4, ::4], evaluation["proposal_label"].long())


def test_the_whole_evaluation(evaluation):
    model, _ = released_zsseg_plus()
    regions, inside = region_of("golden_voc_eval.json", 375, 500)
    (scores, maps), = model.inspect([picture(375, 500, 0)], PASCAL, regions=[[regions]])  # fmt: skip
    final = F.interpolate(scores.logits[None], size=(375, 500), mode="bilinear", align_corners=False)[0]
    close(final[:, ::16, ::16], evaluation["sem_seg"])
    close(final[60:70, ::8, ::8], evaluation["sem_seg_object_parts"])
    labels = torch.where(inside, final.argmax(0), -1)
    assert torch.equal(labels[::2, ::2], evaluation["label"].long())
    height, width = evaluation["crop_hw"].tolist()
    left, top, right, bottom = maps["regions"].boxes[0].tolist()
    assert (bottom - top, right - left) == (height, width)
    close(maps["regions"].clip, evaluation["region_probs"], 1e-3)
    only = model.predict([picture(375, 500, 0)], PASCAL, class_ids=range(60, 70), regions=[[regions]])[0]
    assert torch.equal(only.logits, scores.logits[60:70])


@pytest.fixture(scope="module")
def synthetic():
    """The recorded proposals: class probabilities (50, 116), mask logits (50, 4, 4)."""
    logits = torch.from_numpy(fill("synthetic.mask_cls", (50, 117))) * math.sqrt(117) * 3
    masks = torch.from_numpy(fill("synthetic.mask_pred", (50, 4, 4))) * 24
    return logits.softmax(-1)[:, :-1], masks


@pytest.fixture
def fused():
    """The released model with the fusion weight of the recording."""
    model, _ = released_zsseg_plus()
    before = model.prompt_learner.fuse_weight.data
    model.prompt_learner.fuse_weight.data = torch.tensor(0.6)
    yield model
    model.prompt_learner.fuse_weight.data = before


@torch.inference_mode()
def test_regions_of_stage_2(region, synthetic, fused):
    pixels = picture(240, 320, 3)
    prepared = prepare_image(fused, pixels)
    regions, inside = region_of("golden_voc_region.json", 240, 320)
    mask = resized_mask(regions, prepared, "floor")
    assert torch.equal(mask[::4, ::4], region["object_mask_resized"] > 0)
    allowed = allowed_classes(PASCAL, regions.object_id)
    assert list(allowed) == region["allowed_class_ids"].tolist()
    labels, scores = class_map(*synthetic, (512, 683), (512, 683), range(116))
    close(scores[:, ::32, ::32], region["proposal_semseg"])
    assert (labels[::4, ::4] == region["proposal_label"].long()).float().mean() > 0.999
    crop = cut_object(prepared.pixels, mask, labels, 384)
    left, top, right, bottom = crop.box
    assert [bottom - top, right - left] == region["crop_hw"].tolist()
    close(crop.pixels[:, ::8, ::8], region["region"])
    assert torch.equal(F.max_pool2d(crop.inside[None].float(), 16)[0], region["object_mask_24"].float())
    dense = dense_features(fused.clip, crop.pixels[None])[0]
    close(dense[::16, ::2, ::2], region["dense_clip_features"])
    texts = fused.encode_vocabulary(PASCAL)
    naming = name_regions(fused, prepared.pixels, labels, mask, texts, PASCAL, allowed)
    assert list(naming.region_ids) == region["valid_class_ids"].tolist()
    features = pool_regions(dense, crop, naming.region_ids)
    close(features.whole, region["object_region_feature"], 1e-3)
    close(features.regions, region["part_region_features"], 1e-3)
    close(100 * features.fused(torch.tensor(0.6)) @ texts.T, region["region_logits"][:, :-1], 1e-3)
    close(naming.probabilities, region["region_probs"][:, list(allowed)], 1e-3)
    clip = region_map(labels, naming.region_ids, naming.probabilities)
    joined = join_stages(fused, scores[list(allowed)], clip, PASCAL, allowed)
    far = (joined[:, ::8, ::8] - region["semseg_resized_allowed"]).abs() > 1e-3 * region["semseg_resized_allowed"].max()
    assert far.float().mean() < 1e-3
    final = F.interpolate(joined[None], size=(240, 320), mode="bilinear", align_corners=False)[0]
    found = torch.where(inside, torch.tensor(allowed)[final.argmax(0)], -1)[::2, ::2]
    assert (found == region["label"].long()).float().mean() > 0.999


@pytest.fixture(scope="module")
def training():
    """The recorded batch of already augmented samples."""
    facts, vocabulary = read_json("golden_voc_train.json"), PASCAL.seen
    batch = {"images": [], "part_maps": [], "object_maps": [], "vocabulary": vocabulary}
    for sample in facts["input"]["samples"]:
        height, width = sample["h"], sample["w"]
        inside, sector = scene(height, width, sample["ellipse"], len(sample["part_ids"]))
        canvas = torch.full((3, 512, 512), 128, dtype=torch.uint8)
        canvas[:, :height, :width] = picture(height, width, sample["seed"])
        maps = torch.full((2, 512, 512), vocabulary.ignore_label)
        ids = np.array(sample["part_ids"])
        maps[0, :height, :width][inside] = torch.from_numpy(ids[sector[inside]])
        maps[1, :height, :width][inside] = vocabulary.object_id(sample["obj"])
        batch["images"].append(canvas)
        batch["part_maps"].append(maps[0])
        batch["object_maps"].append(maps[1])
    return facts, batch


@pytest.fixture(scope="module")
def trained():
    """A copy of the released model as it was recorded in training."""
    model = copy.deepcopy(released_zsseg_plus()[0])
    model.transformer_decoder.query_embed.weight.data *= 64
    return model.train()


@torch.no_grad()
def test_matching(training, trained):
    facts, batch = training
    golden = read_arrays("golden_voc_train.npz")
    pixels = trained.padded(batch["images"])
    masks = torch.stack([(each != 255).float() for each in batch["object_maps"]])
    proposals = trained.propose(trained.encode_images(pixels), masks)
    logits = trained.class_logits(proposals.class_embeddings, trained.encode_vocabulary(PASCAL.seen))
    close(logits[-1], golden["pred_logits"])
    close(proposals.mask_logits[-1, :, :, ::8, ::8], golden["pred_masks"])
    segments = segments_of(batch["part_maps"], (512, 512), ignore_label=255)
    for layer, pairs in zip((5, 0, 1, 2, 3, 4), facts["matching"]["pairs"], strict=True):
        for number, wanted in enumerate(pairs):
            found = match_maskformer(logits[layer, number], proposals.mask_logits[layer, number], segments[number])
            assert [each.tolist() for each in found] == wanted


def test_a_training_step(training, trained):
    facts, batch = training
    losses = trained.loss(batch)
    assert losses.keys() == facts["weighted_losses"].keys()
    for name, value in facts["weighted_losses"].items():
        assert float(losses[name].detach()) == pytest.approx(value, rel=1e-4), name
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(facts["total_loss"], rel=1e-5)
    total.backward()
    parameters = released_names({name: p for name, p in trained.named_parameters() if p.requires_grad})
    assert len(parameters) == facts["n_trainable_tensors"]
    norm = torch.stack([p.grad.norm() for p in parameters.values()]).norm()
    assert float(norm) == pytest.approx(facts["grad_total_norm"], rel=1e-3)
    constant = "sem_seg_head.predictor.transformer.decoder.layers.0.self_attn.in_proj_weight"
    for name, value in facts["grad_l2"].items():
        if name != constant:
            assert float(parameters[name].grad.norm()) == pytest.approx(value, rel=1e-3), name
    before = {name: parameters[name].detach().clone() for name in facts["grad_l2"]}
    settings = TrainingSettings(iterations=20000, learning_rate=1e-4, weight_decay=1e-4)
    optimiser = build_optimiser(trained, settings)
    rates = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for name, wanted in facts["optimizer"]["groups"].items():
        group = rates[id(parameters[name])]
        assert (group["initial_lr"], group["weight_decay"]) == (pytest.approx(wanted["lr"]), wanted["weight_decay"])
    torch.nn.utils.clip_grad_norm_(parameters.values(), 0.01)
    optimiser.step()
    for name, value in facts["optimizer"]["param_delta_l2_after_one_step"].items():
        if name != constant:
            assert float((parameters[name] - before[name]).norm()) == pytest.approx(value, rel=0.02), name

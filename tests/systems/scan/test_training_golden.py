"""A training step of SCAN and one of its CLIP's fine-tuning, and both schedules, against the reference's numbers."""

import math

import numpy as np
import pytest
import torch
from timm.layers import DropPath

from ovparts_lib.models.clip.pair_crops import clip_pixels, mask_by_colour
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.models.clip.towers import VIT_B_16, build_clip
from ovparts_lib.models.maskformer.matching import Segments
from ovparts_lib.systems.adapted_clip import contrastive_loss, rate_factor
from ovparts_lib.systems.scan.fine_tuning import ShiftedClip
from ovparts_lib.systems.scan.weights import released_names
from ovparts_lib.training.optimisers import learning_rate_factor
from ovparts_lib.vocabularies.vocabulary import Vocabulary
from tests.golden.fill import fill, image
from tests.golden.released_scan import arrays, read_json, vitb_scan
from tests.systems.scan.test_golden import assert_close, picture, recorded_shift

FILL = (124, 116, 103)


def recorded_batch(facts):
    """(images, label maps) of the training step: padded to squares, with 128 and the ignore label."""
    images, labels = [], []
    for height, width, seed in ((256, 256, 3), (256, 200, 4)):
        generator = np.random.Generator(np.random.PCG64(100 + seed))
        blocks = generator.integers(0, 6, (math.ceil(height / 32), math.ceil(width / 32)))
        ids = np.append(np.sort(generator.permutation(20)[:5]), 255)[blocks]
        ids = ids.repeat(32, 0).repeat(32, 1)[:height, :width]
        images.append(torch.nn.functional.pad(picture(height, width, seed), (0, 256 - width), value=128))
        labels.append(torch.nn.functional.pad(torch.from_numpy(ids), (0, 256 - width), value=255))
    return {"images": images, "part_maps": labels, "vocabulary": words(facts["settings"]["class_names"])}


def words(names):
    return Vocabulary("recorded", tuple(names))


@pytest.fixture
def training_model():
    model = vitb_scan(100)[0]
    kinds = {DropPath: "drop_prob", torch.nn.Dropout: "p", torch.nn.MultiheadAttention: "dropout"}
    rates = [(module, kinds[type(module)]) for module in model.modules() if type(module) in kinds]
    kept = [getattr(module, name) for module, name in rates]
    for module, name in rates:
        setattr(module, name, 0.0)
    yield model.train()
    model.eval().zero_grad(set_to_none=True)
    model.last_auxiliary_loss = False
    for (module, name), rate in zip(rates, kept, strict=True):
        setattr(module, name, rate)


@pytest.mark.slow
def test_training_step(monkeypatch, training_model):
    model = training_model
    facts, golden = arrays("golden_vitb_train_step")
    batch = recorded_batch(facts)
    matched = []
    match = type(model.losses).match

    def remembered(self, class_logits, mask_logits, segments: Segments):
        if not matched:
            np.testing.assert_array_equal(segments.class_ids, golden["target_labels"][: len(segments.class_ids)])
        matched.append(match(self, class_logits, mask_logits, segments))
        return matched[-1]

    monkeypatch.setattr(type(model.losses), "match", remembered)
    model.last_auxiliary_loss = True
    with monkeypatch.context() as drawn, model.without_unused_towers(batch["vocabulary"]):
        assert model.clip is None
        draws = []

        def rand(*shape, generator=None):
            draws.append(shape)
            generator = np.random.Generator(np.random.PCG64(50000 + len(draws) - 1))
            return torch.from_numpy(generator.random(shape, np.float32))

        drawn.setattr(torch, "rand", rand)
        losses = model.loss(batch)
    assert len(draws) == 44 and draws[:4] == [(1, 12544, 2), (1, 12544, 2), (10, 37632, 2), (10, 3136, 2)]
    np.testing.assert_array_equal(torch.cat([queries for queries, _ in matched]), golden["match_query"])
    np.testing.assert_array_equal(torch.cat([targets for _, targets in matched]), golden["match_target"])
    for name, weight in (("ce", 2), ("mask", 5), ("dice", 5)):
        found = [losses[f"loss_{name}{level}"].item() / weight for level in ("", *(f"_{i}" for i in range(10)))]
        np.testing.assert_allclose(found, golden[f"loss_{name}"], rtol=1e-4, err_msg=name)
    # as released, the last auxiliary level counts for nothing
    total = sum(value for name, value in losses.items() if not name.endswith("_9"))
    np.testing.assert_allclose(total.item(), golden["total"], rtol=1e-4)
    total.backward()
    gradients = released_names({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    norms = {name: gradient.double().norm() for name, gradient in gradients.items()}
    np.testing.assert_allclose(sum(norm**2 for norm in norms.values()) ** 0.5, golden["grad_norm_all"], rtol=1e-3)
    recorded = dict(zip(facts["arrays"]["grad_norm"], golden["grad_norm"], strict=True))
    for name, norm in recorded.items():
        np.testing.assert_allclose(norms[name], norm, rtol=1e-3, atol=1e-7 * golden["grad_norm_all"], err_msg=name)


@pytest.mark.slow
def test_a_step_of_fine_tuning_clip_on_shifted_crops():
    facts, golden = arrays("golden_vitb_csclip_step")
    assert facts["activation"] == "QuickGELU"
    model = ShiftedClip(build_clip(VIT_B_16, quick_gelu=True), VIT_B_16)
    for module, prefix in ((model.clip, "module.clip_model."), (model.original_visual, "module.original_clip_visual.")):
        shapes = module.state_dict()
        module.load_state_dict({name: torch.from_numpy(fill(prefix + name, shapes[name].shape)) for name in shapes})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == facts["parameters_trainable"]
    groups = {group["weight_decay"]: len(group["params"]) for group in model.parameter_groups(0.2)}
    assert groups == {0.2: facts["weight_decay_groups"]["decay 0.2"], 0.0: facts["weight_decay_groups"]["no decay"]}

    crops, masks, images = [], [], []
    y, x = np.mgrid[:224, :224] / 224
    for number in range(4):
        crop = image(224, 224, 31 + number)
        outside = np.hypot(x - (0.35 + 0.1 * number), y - 0.5) >= 0.2 + 0.05 * number  # one pixel lies on the edge
        crop[outside] = FILL
        crop = torch.from_numpy(crop).permute(2, 0, 1)
        masks.append(mask_by_colour(crop))
        crops.append(clip_pixels(crop))
        images.append(clip_pixels(picture(224, 224, 81 + number)))
    kept = patch_masks(torch.stack(masks), 16)
    np.testing.assert_array_equal(kept.sum(1), golden["fg_tokens"])
    shifted = recorded_shift(golden, kept, facts["replace_layers"])
    features = model.embed_shifted(torch.stack(crops), kept, torch.stack(images), shifted)
    texts = model.embed_captions(facts["captions"])
    assert_close(features.detach(), golden["image_features"], "image_features")
    assert_close(texts, golden["text_features"], "text_features")
    loss = contrastive_loss(model.clip, features, texts)
    np.testing.assert_allclose(loss.item(), golden["loss"], rtol=1e-4)
    loss.backward()
    norms = {f"clip_model.{name}": parameter.grad for name, parameter in model.clip.named_parameters()}
    found = [norms[name].double().norm() for name in facts["arrays"]["grad_norm"]]
    np.testing.assert_allclose(found, golden["grad_norm"], rtol=1e-3)


def test_both_learning_rate_schedules():
    segmentation, clip = (read_json("lr_schedules.json")[f"{name}_lr"] for name in ("segmentation", "clip_finetune"))
    for step, rate in segmentation["values"].items():
        factor = learning_rate_factor(int(step), 120000, schedule="poly", power=0.9, warmup=1500)
        assert factor * 6e-5 == pytest.approx(rate, rel=1e-9)
    for step, rate in clip["values"].items():
        assert 5e-6 * rate_factor(int(step), clip["total_steps"]) == pytest.approx(rate, rel=1e-9)

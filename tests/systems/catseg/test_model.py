"""CATSeg's behaviour, on a model so small that each test takes milliseconds."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.images import CLIP_STATISTICS, normalise
from ovparts_lib.models.backbones.guidance import GuidanceSize
from ovparts_lib.models.cost_aggregation import AggregatorSize, mean_cost
from ovparts_lib.models.cost_aggregation.inputs import (
    InputSize,
    SlidingWindow,
    square_inputs,
    squash,
)
from ovparts_lib.models.cost_aggregation.targets import part_segmentation_loss
from ovparts_lib.systems.catseg.model import RELEASED_GROUPS, Catseg, CostSize, without_guidance
from ovparts_lib.systems.scores import BACKGROUND
from ovparts_lib.training.optimisers import build_optimiser
from ovparts_lib.training.settings import TrainingSettings
from tests.systems.catseg.tiny import TINY_CATSEG, tiny_catseg
from tests.systems.tiny import VOCABULARY, random_batch, random_image

IMAGES = (random_image(50, 70), random_image(64, 31, 1))


@pytest.fixture(scope="module")
def model():
    return tiny_catseg().eval()


def every(scores):
    return torch.cat([scores.logits, scores.background[None]])


def test_what_a_prediction_holds(model):
    first, second = model.predict(IMAGES, VOCABULARY)
    assert first.logits.shape == (5, 16, 16)
    assert first.background.shape == (16, 16)
    assert (first.image_size, second.image_size) == ((50, 70), (64, 31))
    assert first.class_ids == (0, 1, 2, 3, 4)
    assert first.resized_as == "probabilities"
    (alone,) = model.predict(IMAGES[1:], VOCABULARY, background=False)
    assert alone.background is None
    assert torch.allclose(alone.logits, second.logits, atol=1e-5)


def test_part_ids_choose_channels_and_change_none(model):
    (whole,) = model.predict(IMAGES[:1], VOCABULARY)
    (some,) = model.predict(IMAGES[:1], VOCABULARY, class_ids=[4, 1])
    assert some.class_ids == (4, 1)
    assert torch.allclose(some.logits, whole.logits[[4, 1]], atol=1e-6)
    assert torch.allclose(some.background, whole.background, atol=1e-6)
    with pytest.raises(ValueError, match="class_ids must be different numbers from 0 to 4"):
        model.predict(IMAGES[:1], VOCABULARY, class_ids=[5])


def test_the_rest_of_the_vocabulary_does_change_them(model):
    (whole,) = model.predict(IMAGES[:1], VOCABULARY)
    fewer = type(VOCABULARY).from_words({"dog": ["head", "tail"]})
    (alone,) = model.predict(IMAGES[:1], fewer)
    assert not torch.allclose(alone.logits, whole.logits[:2], atol=1e-4)


def test_padding_is_said_or_left_in(model):
    (scores,) = model.predict(IMAGES[:1], VOCABULARY)
    # 50 x 70 becomes 48 x 67, padded to 64 x 96.
    assert scores.covered_size == pytest.approx((50 * 64 / 48, 70 * 96 / 67))
    stretched = tiny_catseg(padding="stretched").eval()
    (released,) = stretched.predict(IMAGES[:1], VOCABULARY)
    assert released.covered_size is None
    assert torch.equal(released.logits, scores.logits)
    (fitting,) = model.predict([random_image(32, 64)], VOCABULARY)  # becomes 48 x 96, padded to 64 x 96
    assert fitting.covered_size == pytest.approx((32 * 64 / 48, 64))


def test_inputs_are_padded_after_normalising_and_before_squashing():
    size = InputSize(32, shortest_edge=None, divisor=32)
    image = random_image(32, 40)
    inputs = square_inputs([image], size, 64, torch.device("cpu"), test=True)
    padded = F.pad(normalise(image[None].float(), CLIP_STATISTICS), (0, 24, 0, 0))
    assert torch.allclose(inputs.clip, squash(padded, 32))
    assert inputs.guidance.shape == (1, 3, 64, 64)
    assert inputs.covered == [(32, 64)]


def test_kept_maps(model):
    ((scores, found),) = model.inspect(IMAGES[:1], VOCABULARY, class_ids=[3, 0])
    cost, attention = found["cost"], found["attention"]
    assert cost.queries == ("car's licence plate", "dog's head") == attention.queries
    assert cost.before.shape == (2, 4, 4)
    inputs = square_inputs(IMAGES[:1], model.size.inputs, 32, model.device, test=True)
    dense, _ = model.encode_images(inputs)
    expected = mean_cost(dense.features, model.encode_texts(VOCABULARY.parts)[[3, 0]])[0]
    assert torch.allclose(cost.before, expected, atol=1e-6)
    assert torch.equal(cost.after, scores.logits)
    assert cost.class_attention.keys() == {0, 1}
    assert cost.classes == (*VOCABULARY.parts, BACKGROUND)
    for weights in cost.class_attention.values():
        assert weights.shape == (2, len(cost.classes))
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert attention.clip.keys() == {1, 2, 3}
    assert attention.clip[1].shape == (2, 17, 17)


def test_sliding_window_averages_crops_and_the_whole(model):
    sliding = copy.copy(model)
    sliding.sliding_window, sliding.window = True, SlidingWindow(side=53, crop=32)
    (scores,) = sliding.predict(IMAGES[:1], VOCABULARY, class_ids=[2])
    assert scores.logits.shape == (1, 53, 53)
    assert scores.covered_size is None
    window = sliding.window
    assert window.corners == [(0, 0), (0, 21), (21, 0), (21, 21)]
    maps = torch.rand(5, 2, 32, 32)
    fused = window.fuse(maps)
    whole = F.interpolate(maps[-1:], size=(53, 53), mode="bilinear")[0]
    assert torch.allclose(fused[:, 5, 5], (maps[0, :, 5, 5] + whole[:, 5, 5]) / 2, atol=1e-6)
    four = (maps[0, :, 25, 24] + maps[1, :, 25, 3] + maps[2, :, 4, 24] + maps[3, :, 4, 3]) / 4
    assert torch.allclose(fused[:, 25, 24], (four + whole[:, 25, 24]) / 2, atol=1e-6)
    assert SlidingWindow.around(384) == SlidingWindow(640, 384)
    with pytest.raises(ValueError, match="do not cover a side of 600"):
        SlidingWindow(600, 384)


def test_loss_is_the_weighted_mean_over_all_elements():
    logits, targets = torch.randn(2, 3, 4, 4).double(), [torch.randint(0, 3, (6, 8)), torch.randint(0, 3, (4, 5))]
    total, count = 0.0, 0
    for maps, target in zip(logits, targets, strict=True):
        enlarged = F.interpolate(maps[None], size=target.shape, mode="bilinear")[0]
        positive = F.one_hot(target, 3).permute(2, 0, 1).double()
        losses = F.binary_cross_entropy_with_logits(enlarged, positive, reduction="none")
        total += (losses * torch.tensor([1, 1, 0.05])[:, None, None]).sum().item()
        count += losses.numel()
    assert part_segmentation_loss(logits, targets, 0.05).item() == pytest.approx(total / count, rel=1e-6)


def test_the_background_may_be_no_class(model):
    """Then nothing is positive where nothing is labelled, and the other classes do not see it."""
    without = tiny_catseg(background_class=False).eval()
    ((scores, found),) = without.inspect(IMAGES[:1], VOCABULARY)
    cost = found["cost"]
    assert scores.background is None
    assert cost.classes == VOCABULARY.parts
    torch.testing.assert_close(cost.class_attention[0].sum(1), torch.ones(5))
    with torch.no_grad():
        without.background_text += 1
    assert torch.allclose(without.predict(IMAGES[:1], VOCABULARY)[0].logits, scores.logits, atol=1e-5)
    assert not torch.allclose(model.predict(IMAGES[:1], VOCABULARY)[0].logits, scores.logits, atol=1e-4)

    logits, target = torch.randn(1, 3, 4, 4), torch.randint(0, 4, (6, 8))  # 3 is no class
    enlarged = F.interpolate(logits, size=(6, 8), mode="bilinear")[0]
    positive = F.one_hot(target, 4).permute(2, 0, 1)[:3].float()
    expected = F.binary_cross_entropy_with_logits(enlarged, positive)
    assert part_segmentation_loss(logits, [target], 1.0).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("background", [True, False])
def test_parts_that_are_not_chosen_are_not_there(background):
    """With four queries of five parts, the one that does not occur is left out."""
    batch = random_batch()
    ignore = VOCABULARY.ignore_label
    batch["part_maps"] = [part_map.masked_fill(part_map == 4, ignore) for part_map in batch["part_maps"]]
    fewer = type(VOCABULARY)("four", VOCABULARY.parts[:4], VOCABULARY.objects, ignore_label=ignore)
    some, all_of_fewer = (
        tiny_catseg(training_queries=count, background_class=background).loss(batch | {"vocabulary": words})
        for count, words in ((4, VOCABULARY), (None, fewer))
    )
    assert some["loss_sem_seg"].item() == pytest.approx(all_of_fewer["loss_sem_seg"].item(), rel=1e-5)


def test_padding_is_background_in_training_or_stretched_away():
    """60 x 80 pixels are padded to 64 x 96: the same as a picture and labels that were padded before."""
    batch = random_batch()
    batch = {name: values if name == "vocabulary" else values[:1] for name, values in batch.items()}
    cut = tiny_catseg().loss(batch)["loss_sem_seg"]
    grown = F.pad(batch["part_maps"][0], (0, 16, 0, 4), value=VOCABULARY.ignore_label)
    stretched = tiny_catseg(padding="stretched")
    loss = stretched.loss(batch | {"part_maps": [grown]})["loss_sem_seg"]
    assert loss.item() == pytest.approx(cut.item(), rel=1e-6)
    assert stretched.loss(batch)["loss_sem_seg"].item() != pytest.approx(cut.item(), rel=1e-3)


def test_loss_and_gradients_are_the_same_with_recomputation_and_in_chunks():
    results = []
    for options in ({}, {"checkpoint_aggregator": True, "chunk_tokens": 40}, {"chunk_tokens": 1}):
        model = tiny_catseg(**options).train()
        loss = model.loss(random_batch())["loss_sem_seg"]
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert all(gradient is not None for gradient in gradients.values())
        results.append((loss.item(), gradients))
    for loss, gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, results[0][1][name], atol=1e-6), name


def test_some_queries_give_the_loss_of_a_smaller_vocabulary():
    batch = random_batch()
    kept = (1, 3)
    ignore = VOCABULARY.ignore_label
    batch["part_maps"] = [torch.where(torch.isin(m, torch.tensor(kept)), m, ignore) for m in batch["part_maps"]]
    few = tiny_catseg(training_queries=2).loss(batch)["loss_sem_seg"]
    smaller = type(VOCABULARY)(
        "two", tuple(VOCABULARY.parts[part] for part in kept), VOCABULARY.objects, ignore_label=ignore
    )
    table = torch.full((ignore + 1,), ignore)
    table[list(kept)] = torch.arange(2)
    batch |= {"vocabulary": smaller, "part_maps": [table[m] for m in batch["part_maps"]]}
    assert few.item() == pytest.approx(tiny_catseg().loss(batch)["loss_sem_seg"].item(), rel=1e-5)


def test_a_wrong_label_is_named():
    batch = random_batch()
    batch["part_maps"][1][3, 3] = 77
    with pytest.raises(ValueError, match=r"part map of image 'second' holds label 77.*parts 0 to 4"):
        tiny_catseg().loss(batch)


def test_training_lowers_the_loss():
    model, batch = tiny_catseg().train(), random_batch()
    optimiser = build_optimiser(model, TrainingSettings(iterations=30, learning_rate=1e-2))
    losses = []
    for _ in range(30):
        loss = model.loss(batch)["loss_sem_seg"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert math.isfinite(losses[-1])


def test_bfloat16_autocast_keeps_logits_and_losses_in_float32(model):
    (plain,) = model.predict(IMAGES[:1], VOCABULARY)
    with torch.autocast("cpu", torch.bfloat16):
        (cast,) = model.predict(IMAGES[:1], VOCABULARY)
        loss = tiny_catseg().loss(random_batch())["loss_sem_seg"]
    assert cast.logits.dtype == torch.float32 == loss.dtype
    assert torch.allclose(cast.logits, plain.logits, atol=0.1 * float(plain.logits.std()) + 0.05)
    assert loss.item() == pytest.approx(tiny_catseg().loss(random_batch())["loss_sem_seg"].item(), rel=0.05)


def test_what_trains_and_how_fast():
    model = tiny_catseg()
    trained = model.set_trainable(RELEASED_GROUPS)
    assert trained
    assert not any(name.startswith(("clip.", "background_text")) for name in trained)
    attention = model.set_trainable(["clip_attention"])
    assert all(name.startswith("clip.visual") and ("attn" in name or "position" in name) for name in attention)
    assert len(attention) == 1 + 4 * 4
    model.set_trainable(Catseg.groups)
    rates = {}
    for group in model.parameter_groups(1e-4):
        for parameter in group["params"]:
            rates[id(parameter)] = group["lr_multiplier"], group["weight_decay"]
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert by_name["guidance.convs.0.0.weight"] == (0.01, 1e-4)
    assert by_name["guidance.convs.0.1.weight"] == (0.01, 0.0)
    assert by_name["clip.visual.conv1.weight"] == (0.01, 1e-4)
    assert by_name["decoder.head.bias"] == (1.0, 1e-4)
    assert by_name["layers.0.classes.norm1.bias"] == (1.0, 0.0)
    assert by_name["background_text"] == (1.0, 1e-4)
    assert not any(name.startswith(("clip.transformer", "clip.token_embedding")) for name in by_name)
    with pytest.raises(ValueError, match="no trainable group 'agregator'; did you mean 'aggregator'"):
        model.set_trainable(["agregator"])


def test_the_background_text_learns_if_it_may():
    model = tiny_catseg().train()
    model.set_trainable(["background_text", "clip_attention"])
    model.loss(random_batch())["loss_sem_seg"].backward()
    assert model.background_text.grad.abs().max() > 0
    assert model.clip.visual.transformer.resblocks[-1].attn.in_proj_weight.grad.abs().max() > 0


def test_without_guidance_nothing_of_the_backbone_remains():
    model = tiny_catseg(size=without_guidance(TINY_CATSEG)).train()
    assert model.guidance is None and not list(model.appearance.parameters())
    model.loss(random_batch())["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_pooling_is_an_option(model):
    finer = tiny_catseg(pooling=1).eval()
    (pooled,), (not_pooled,) = model.predict(IMAGES[:1], VOCABULARY), finer.predict(IMAGES[:1], VOCABULARY)
    assert not torch.allclose(pooled.logits, not_pooled.logits, atol=1e-4)
    # Positions attend alone, as in a model whose size says so; what was trained is the same.
    unpooled = replace(TINY_CATSEG, aggregator=replace(TINY_CATSEG.aggregator, pooling=1))
    (alone,) = tiny_catseg(size=unpooled).eval().predict(IMAGES[:1], VOCABULARY)
    assert torch.equal(alone.logits, not_pooled.logits)


def test_pooling_of_predictions_leaves_training_alone(model):
    batch = random_batch()
    losses = [
        one.loss(batch)["loss_sem_seg"].item()
        for one in (model, tiny_catseg(pooling=1), tiny_catseg(size=replace(
            TINY_CATSEG, aggregator=replace(TINY_CATSEG.aggregator, pooling=1)
        )))
    ]  # fmt: skip
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training_queries": 0}, r"training_queries\n.*greater than 0"),
        ({"chunk_tokens": 0}, r"chunk_tokens\n.*greater than 0"),
        ({"pooling": 0}, "pooling must divide the 4 patches of a side, not 0"),
        ({"pooling": 3}, "pooling must divide the 4 patches of a side, not 3"),
        ({"padding": "keep"}, r"padding\n.*'cut' or 'stretched'"),
        ({"lr_multipliers": {"backbone": 0.1}}, "no trainable group 'backbone'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_catseg(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": "imagenet80"}, "templates must be one of"),
        ({"templates": "single"}, "'single' are 1, but the aggregator has 3 prompts"),
        ({"aggregator": AggregatorSize(prompts=3)}, "text_dim 512 is not CLIP's embed_dim 16"),
        ({"inputs": InputSize(40)}, "in windows of 2 patches"),
        ({"guidance": GuidanceSize("none")}, "go together"),
    ],
)
def test_sizes_that_cannot_be(changes, message):
    given = {name: getattr(TINY_CATSEG, name) for name in ("clip", "inputs", "guidance", "aggregator", "templates")}
    with pytest.raises(ValueError, match=message):
        CostSize(**{**given, **changes})


def test_images_must_be_images(model):
    with pytest.raises(ValueError, match="there are no images"):
        model.predict([], VOCABULARY)
    with pytest.raises(ValueError, match=r"image 1 is torch.float32.*wanted uint8"):
        model.predict([IMAGES[0], IMAGES[1].float()], VOCABULARY)
    assert isinstance(model, Catseg)

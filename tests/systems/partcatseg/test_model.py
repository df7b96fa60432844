"""PartCATSeg's behaviour, on a model so small that each test takes milliseconds."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.models.cost_aggregation import Chunks, mean_cost
from ovparts_lib.models.cost_aggregation.inputs import square_inputs
from ovparts_lib.systems.catseg.model import without_guidance
from ovparts_lib.systems.partcatseg.model import MINIATURE_PARTCATSEG, RELEASED_GROUPS, PartCatseg
from ovparts_lib.systems.scores import BACKGROUND
from ovparts_lib.training.optimisers import build_optimiser
from ovparts_lib.training.settings import TrainingSettings
from ovparts_lib.vocabularies import PartVocabulary
from tests.systems.partcatseg.tiny import TINY_PARTCATSEG, labelled_batch, tiny_partcatseg
from tests.systems.tiny import VOCABULARY, random_image

IMAGES = (random_image(50, 70), random_image(64, 31, 1))
TERMS = {"loss_specific_part", "loss_specific_background", "loss_part", "loss_object", "loss_compositional"}


@pytest.fixture(scope="module")
def model():
    """With second-stage layers of their own, so that a mix-up of the stages shows."""
    model = tiny_partcatseg().eval()
    with torch.no_grad():
        for module in (model.aggregator.specific_embedding, model.aggregator.specific_layers):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def total(losses):
    return sum(losses.values())


# --- texts and stages -----------------------------------------------------------------------------------------------


def test_texts_are_generic_parts_then_objects_then_background():
    words = {"zebra": ["wing", "arm"], "ant": ["arm"]}
    vocabulary = PartVocabulary("v", ("zebra's wing", "zebra's arm", "ant's arm"), ("moon", "zebra", "ant"))
    assert PartVocabulary.from_words(words).parts == vocabulary.parts
    model = tiny_partcatseg()
    texts = model.encode_vocabulary(vocabulary)
    encoded = model.encode_texts(["arm", "wing", "ant", "zebra"])
    torch.testing.assert_close(texts.generic, encoded)
    torch.testing.assert_close(texts.specific, model.encode_texts(vocabulary.parts))
    assert texts.part_to_generic == (1, 0, 0)
    assert texts.part_to_object == (1, 1, 0)
    assert texts.generic_count == 2
    background = F.normalize(model.background_text, dim=-1).expand(3, -1)
    torch.testing.assert_close(texts.generic[-1], background)


def test_a_word_without_owner_is_its_own_part_and_object():
    texts = tiny_partcatseg().encode_vocabulary(PartVocabulary.from_words(["roof", "car's wheel"]))
    assert texts.part_to_generic == (0, 1)
    assert texts.part_to_object == (1, 0)
    torch.testing.assert_close(texts.generic[0], texts.generic[3])


def test_texts_follow_the_text_tower_and_the_vocabulary():
    model = tiny_partcatseg()
    before = model.encode_vocabulary(VOCABULARY).specific
    other = model.encode_vocabulary(PartVocabulary.from_words({"bird": ["wing"]})).specific
    torch.testing.assert_close(other[0], before[4])
    with torch.no_grad():
        model.clip.text_projection += 1
    assert not torch.allclose(model.encode_vocabulary(VOCABULARY).specific[:-1], before[:-1])


def test_the_second_stage_compares_projected_pairs_of_maps_with_their_own_text(model):
    """By definition: join the maps of part and object, project them, take cosines with this part's prompts."""
    aggregator, texts = model.aggregator, model.encode_vocabulary(VOCABULARY)
    first = torch.randn(2, len(texts.generic), 4, 4, 16)
    aware = aggregator.object_aware_features(first, texts)
    ours = aware.over_parts(lambda part, text: part, texts, Chunks())
    costs = aware.over_parts(mean_cost, texts, Chunks())
    pairs = [
        *zip(texts.part_to_generic, (texts.generic_count + o for o in texts.part_to_object), strict=True),
        (-1, -1),
    ]
    for number, (part, owner) in enumerate(pairs):
        joined = torch.cat([first[:, part], first[:, owner]], dim=-1)
        expected = aggregator.object_aware(joined)
        torch.testing.assert_close(ours[:, number], expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)
        cosine = F.cosine_similarity(expected[..., None, :], texts.specific[number], dim=-1).mean(-1)
        torch.testing.assert_close(costs[:, number], cosine, atol=1e-5, rtol=1e-4)


# --- prediction -----------------------------------------------------------------------------------------------------


def test_what_a_prediction_holds(model):
    first, second = model.predict(IMAGES, VOCABULARY)
    assert first.logits.shape == (5, 16, 16)
    assert first.background.shape == (16, 16)
    assert (first.image_size, second.image_size) == ((50, 70), (64, 31))
    assert (first.resized_as, first.objects) == ("probabilities", None)
    (alone,) = model.predict(IMAGES[1:], VOCABULARY, background=False)
    assert alone.background is None
    torch.testing.assert_close(alone.logits, second.logits, atol=1e-5, rtol=1e-4)


def test_part_ids_choose_channels_and_change_none(model):
    (whole,) = model.predict(IMAGES[:1], VOCABULARY)
    (some,) = model.predict(IMAGES[:1], VOCABULARY, class_ids=[4, 1])
    assert some.class_ids == (4, 1)
    torch.testing.assert_close(some.logits, whole.logits[[4, 1]])
    torch.testing.assert_close(some.background, whole.background)
    with pytest.raises(ValueError, match="class_ids must be different numbers from 0 to 4"):
        model.predict(IMAGES[:1], VOCABULARY, class_ids=[5])


def test_the_order_of_the_vocabulary_only_orders_the_channels(model):
    """No class has a place of its own: nothing but words tells them apart."""
    order = [3, 0, 4, 2, 1]
    other = PartVocabulary.from_words([VOCABULARY.parts[part] for part in order])
    (before,), (after,) = (model.predict(IMAGES[:1], words) for words in (VOCABULARY, other))
    torch.testing.assert_close(after.logits, before.logits[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk_tokens", [1, 40, 10**6])
def test_chunks_change_nothing(model, chunk_tokens):
    chunked = copy.copy(model)
    chunked.chunk_tokens = chunk_tokens
    for ours, theirs in zip(chunked.predict(IMAGES, VOCABULARY), model.predict(IMAGES, VOCABULARY), strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-4)


def test_the_first_stage_is_not_decoded(model):
    calls = []
    hook = model.aggregator.decoder.head.register_forward_hook(lambda *call: calls.append(call[2].shape[0]))
    model.predict(IMAGES[:1], VOCABULARY, class_ids=[0, 2], background=False)
    hook.remove()
    assert sum(calls) == 2


def test_padding_is_said_or_left_in(model):
    (scores,) = model.predict(IMAGES[:1], VOCABULARY)
    # 50 x 70 becomes 48 x 67, padded to 64 x 96.
    assert scores.covered_size == pytest.approx((50 * 64 / 48, 70 * 96 / 67))
    stretched = copy.copy(model)
    stretched.padding = "stretched"
    (released,) = stretched.predict(IMAGES[:1], VOCABULARY)
    assert released.covered_size is None
    assert torch.equal(released.logits, scores.logits)


def test_kept_maps(model):
    ((scores, found),) = model.inspect(IMAGES[:1], VOCABULARY, class_ids=[3, 0])
    cost, attention, generic = found["cost"], found["attention"], found["generic_cost"]
    (plain,) = model.predict(IMAGES[:1], VOCABULARY, class_ids=[3, 0])
    torch.testing.assert_close(scores.logits, plain.logits, atol=1e-5, rtol=1e-4)
    assert cost.queries == ("car's licence plate", "dog's head") == attention.queries
    assert torch.equal(cost.after, scores.logits)
    assert cost.class_attention.keys() == {0, 1}
    assert all(((weights > 0) & (weights < 1)).all() for weights in cost.class_attention.values())
    assert cost.classes == (*VOCABULARY.parts, BACKGROUND)
    for weights in cost.class_attention.values():
        assert weights.shape == (2, len(cost.classes))
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert attention.clip.keys() == {1, 2, 3}
    with torch.inference_mode():
        texts = model.encode_vocabulary(VOCABULARY)
        inputs = square_inputs(IMAGES[:1], model.size.inputs, 32, model.device, test=True)
        dense, maps = model.encode_images(inputs)
        first = model.aggregator.first_stage(dense.features, texts, model.aggregator.appearance(maps), Chunks())
        aware = model.aggregator.object_aware_features(first, texts)
        expected = aware.over_parts(mean_cost, texts, Chunks())[0, [3, 0]]
        logits = model.aggregator.decode(first, model.aggregator.appearance(maps), Chunks())[0]
        generic_cost = mean_cost(dense.features, texts.generic)[0]
    torch.testing.assert_close(cost.before, expected)
    # The first stage's maps are those of what the wanted parts are made of.
    assert generic.queries == ("licence plate (part)", "head (part)", "car (object)", "dog (object)")
    words = (*VOCABULARY.generic_parts, *VOCABULARY.objects_with_parts)
    rows = [words.index(query.rpartition(" (")[0]) for query in generic.queries]
    torch.testing.assert_close(generic.before, generic_cost[rows])
    torch.testing.assert_close(generic.after, logits[rows])
    assert generic.class_attention.keys() == {0, 1}
    parts = [f"{word} (part)" for word in VOCABULARY.generic_parts]
    objects = [f"{word} (object)" for word in VOCABULARY.objects_with_parts]
    assert generic.classes == (*parts, *objects, BACKGROUND)
    for weights in generic.class_attention.values():
        torch.testing.assert_close(weights.sum(1), torch.ones(4))


def test_first_stage_maps_of_a_word_that_is_part_and_object(model):
    words = PartVocabulary.from_words(["shelf", "cabinet's shelf"])
    ((_, found),) = model.inspect(IMAGES[:1], words)
    whole = found["generic_cost"]
    assert whole.queries == ("shelf (part)", "shelf (object)", "cabinet (object)")
    ((_, found),) = model.inspect(IMAGES[:1], words, class_ids=[1])
    one = found["generic_cost"]
    assert one.queries == ("shelf (part)", "cabinet (object)")
    torch.testing.assert_close(one.after, whole.after[[0, 2]])
    among = whole.class_attention[1][[0, 2]]
    torch.testing.assert_close(one.class_attention[1], among)


def test_bfloat16_autocast_keeps_logits_and_losses_in_float32(model):
    (plain,) = model.predict(IMAGES[:1], VOCABULARY)
    with torch.autocast("cpu", torch.bfloat16):
        (cast,) = model.predict(IMAGES[:1], VOCABULARY)
        losses = tiny_partcatseg().loss(labelled_batch())
    assert cast.logits.dtype == torch.float32
    assert torch.allclose(cast.logits, plain.logits, atol=0.1 * float(plain.logits.std()) + 0.05)
    for name, value in tiny_partcatseg().loss(labelled_batch()).items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(value.item(), rel=0.05, abs=1e-3), name


# --- training -------------------------------------------------------------------------------------------------------


def test_the_losses_are_those_of_the_predicted_logits():
    """Object and part terms at the labels' size, worked out from a prediction of the same pixels."""
    unresized = replace(TINY_PARTCATSEG, inputs=replace(TINY_PARTCATSEG.inputs, shortest_edge=None))
    model = tiny_partcatseg(size=unresized, padding="stretched").eval()
    batch = labelled_batch()
    losses = model.loss(batch)
    assert losses.keys() == TERMS
    predicted = model.predict(batch["images"], VOCABULARY)
    summed, count = 0.0, 0
    weights = torch.tensor([1.0] * 5 + [0.05])
    for scores, part_map in zip(predicted, batch["part_maps"], strict=True):
        logits = torch.cat([scores.logits, scores.background[None]])[None]
        full = F.interpolate(logits, size=part_map.shape, mode="bilinear")[0].permute(1, 2, 0)
        labelled = part_map != VOCABULARY.ignore_label
        positive = F.one_hot(part_map[labelled], 6).float()
        terms = F.binary_cross_entropy_with_logits(full[labelled], positive, weights.expand(6), reduction="none")
        summed, count = summed + terms.sum(), count + terms.numel()
    torch.testing.assert_close(losses["loss_specific_part"].detach(), summed / count)


def test_losses_and_gradients_are_the_same_with_recomputation_and_in_chunks():
    results = []
    for options in ({}, {"checkpoint_aggregator": True, "chunk_tokens": 40}, {"chunk_tokens": 1}):
        model = tiny_partcatseg(**options).train()
        losses = model.loss(labelled_batch())
        total(losses).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert all(gradient is not None for gradient in gradients.values())
        results.append((losses, gradients))
    for losses, gradients in results[1:]:
        for name, value in losses.items():
            assert value.item() == pytest.approx(results[0][0][name].item(), rel=1e-6), name
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, results[0][1][name], atol=1e-6, rtol=1e-3)


def test_the_compositional_loss_can_be_weighed_and_left_out():
    batch = labelled_batch()
    plain, doubled, without = (tiny_partcatseg(compositional_weight=w).loss(batch) for w in (1.0, 2.0, 0.0))
    assert doubled["loss_compositional"].item() == pytest.approx(2 * plain["loss_compositional"].item())
    assert without.keys() == TERMS - {"loss_compositional"}
    symmetric = tiny_partcatseg(divergence="symmetric_kl").loss(batch)["loss_compositional"]
    assert symmetric.item() > plain["loss_compositional"].item() > 0


def test_the_compositional_loss_reaches_the_first_stage_but_not_clip():
    model = tiny_partcatseg().train()
    model.loss(labelled_batch())["loss_compositional"].backward()
    touched = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert {"object_aware", "embedding", "layers", "appearance"} <= touched
    assert not {"decoder", "specific_layers", "specific_embedding"} & touched


def test_some_queries_give_the_losses_of_a_smaller_vocabulary():
    """All words that occur are those of the smaller vocabulary."""
    batch, ignore = labelled_batch(), VOCABULARY.ignore_label
    smaller = PartVocabulary("s", (VOCABULARY.parts[1], VOCABULARY.parts[3]), ("dog", "car"), ignore_label=ignore)
    batch["part_maps"] = [m.masked_fill((m != 1) & (m != 3), ignore) for m in batch["part_maps"]]
    batch["object_maps"] = [m.masked_fill(m == VOCABULARY.object_id("bird"), ignore) for m in batch["object_maps"]]
    assert VOCABULARY.objects[:2] == smaller.objects
    few = tiny_partcatseg(training_queries=2).loss(copy.deepcopy(batch))
    table = torch.full((ignore + 1,), ignore)
    table[[1, 3]] = torch.arange(2)
    renamed = batch | {"vocabulary": smaller, "part_maps": [table[m] for m in batch["part_maps"]]}
    expected = tiny_partcatseg().loss(renamed)
    assert {name: value.item() for name, value in few.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5
    )


def test_an_object_without_a_chosen_part_is_still_an_object():
    batch = labelled_batch()
    batch["part_maps"] = [torch.full_like(m, VOCABULARY.ignore_label) for m in batch["part_maps"]]
    seen = []
    model = tiny_partcatseg(training_queries=1)
    model.aggregator.text_guidance.register_forward_hook(lambda *call: seen.append(len(call[2])))
    losses = model.loss(batch)
    assert seen == [1 + 3 + 1, 1 + 1]  # one generic part, all three objects, background; one part, background
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_specific_part"] == 0


def test_objects_without_parts_are_background():
    """Whether a pixel's object has no parts or is not labelled at all makes no difference."""
    parts = VOCABULARY.parts
    vocabulary = PartVocabulary("v", parts, (*VOCABULARY.objects, "boat"), ignore_label=65535)
    batch = labelled_batch(vocabulary)
    boats = copy.deepcopy(batch)
    for object_map in boats["object_maps"]:
        object_map[object_map == vocabulary.ignore_label] = vocabulary.object_id("boat")
    first, second = (tiny_partcatseg().loss(some) for some in (batch, boats))
    assert {name: value.item() for name, value in first.items()} == pytest.approx(
        {name: value.item() for name, value in second.items()}
    )


def test_wrong_batches_are_named():
    batch = labelled_batch()
    batch["object_maps"][1][3, 3] = 77
    with pytest.raises(ValueError, match=r"object map of image 'second' holds label 77.*objects 0 to 2"):
        tiny_partcatseg().loss(batch)
    batch["object_maps"][1] = batch["object_maps"][1][:30]
    batch["object_maps"][1][3, 3] = 0
    with pytest.raises(ValueError, match="part map and an object map of different sizes"):
        tiny_partcatseg().loss(batch)
    del batch["object_maps"]
    with pytest.raises(ValueError, match="the batch has no object_maps"):
        tiny_partcatseg().loss(batch)


def test_training_lowers_the_loss():
    model, batch = tiny_partcatseg().train(), labelled_batch()
    optimiser = build_optimiser(model, TrainingSettings(iterations=30, learning_rate=1e-2))
    values = []
    for _ in range(30):
        loss = total(model.loss(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert math.isfinite(values[-1])
    assert values[-1] < 0.8 * values[0]


def test_what_trains_and_how_fast():
    model = tiny_partcatseg(lr_multipliers={"guidance": 0.25})
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == model.set_trainable(RELEASED_GROUPS)
    assert {name.split(".")[0] for name in trained} == {"aggregator", "guidance"}
    rates = {
        id(parameter): (group["lr_multiplier"], group["weight_decay"])
        for group in model.parameter_groups(1e-4)
        for parameter in group["params"]
    }
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert by_name["guidance.convs.0.0.weight"] == (0.25, 1e-4)
    assert by_name["guidance.convs.0.1.weight"] == (0.25, 0.0)
    assert by_name["aggregator.object_aware.bias"] == (1.0, 1e-4)
    assert by_name["aggregator.specific_layers.0.classes.norm1.bias"] == (1.0, 0.0)
    assert "background_text" in model.set_trainable(PartCatseg.groups)


def test_the_second_stage_starts_as_a_copy_of_the_first():
    aggregator = tiny_partcatseg().aggregator
    pairs = (aggregator.embedding, aggregator.specific_embedding), (aggregator.layers, aggregator.specific_layers)
    for first, second in pairs:
        for ours, theirs in zip(second.parameters(), first.parameters(), strict=True):
            assert ours is not theirs
            assert torch.equal(ours, theirs)


def test_without_guidance_nothing_of_the_backbone_remains():
    model = tiny_partcatseg(size=without_guidance(TINY_PARTCATSEG)).train()
    assert model.guidance is None and not list(model.aggregator.appearance.parameters())
    total(model.loss(labelled_batch())).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_miniature_sees_the_miniatures_pictures():
    torch.manual_seed(0)
    (scores,) = PartCatseg(MINIATURE_PARTCATSEG).eval().predict([random_image(96, 128)], VOCABULARY)
    assert scores.logits.shape == (5, 48, 48)
    assert scores.covered_size is None
    assert MINIATURE_PARTCATSEG.aggregator.class_attention == "query"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training_queries": 0}, r"training_queries\n.*greater than 0"),
        ({"padding": "keep"}, r"padding\n.*'cut' or 'stretched'"),
        ({"divergence": "kl"}, r"divergence\n.*'jensen_shannon' or 'symmetric_kl'"),
        ({"compositional_weight": -1}, r"compositional_weight\n.*greater than or equal to 0"),
        ({"lr_multipliers": {"backbone": 0.1}}, "no trainable group 'backbone'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_partcatseg(**options)

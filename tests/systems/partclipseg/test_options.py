"""What else a PartCLIPSeg can be asked for: scores of its queries, any threshold, terms that are left out."""

import pytest
import torch

from ovparts_lib.models.attention_overlap import overlap
from ovparts_lib.systems.partclipseg.model import RELEASED, RELEASED_GROUPS
from ovparts_lib.systems.partclipseg.options import DECODER_LAYERS
from ovparts_lib.systems.registry import SYSTEMS
from tests.systems.partclipseg.test_model import VOCABULARY, batch_of, gradients, plain_logits, tiny_partclipseg
from tests.systems.tiny import random_image


def test_generic_parts_come_when_asked_for():
    model, images = tiny_partclipseg(), [random_image(60, 80, 1), random_image(30, 40, 2)]
    _, own, _ = plain_logits(model, images, VOCABULARY)
    # The queries are beak, head, tail, wheel; bird, car, dog; background. Asked for: bird's head and dog's tail.
    found = model.inspect(images, VOCABULARY, class_ids=[3, 0])
    for number, (_, maps) in enumerate(found):
        assert maps["generic_parts"].class_ids == (1, 2)
        torch.testing.assert_close(maps["generic_parts"].logits, own[number, 1:3])
    scores, alone = model.inspect(images, VOCABULARY, class_ids=[3, 0], background=False)[0]
    torch.testing.assert_close(alone["generic_parts"].logits, found[0][1]["generic_parts"].logits)
    assert scores.objects is None


def test_asking_for_generic_parts_changes_nothing_else():
    model, images = tiny_partclipseg(), [random_image(60, 80, 1)]
    (plain,), ((asked, _),) = model.predict(images, VOCABULARY), model.inspect(images, VOCABULARY)
    assert torch.allclose(plain.logits, asked.logits, atol=1e-4)
    assert torch.allclose(plain.background, asked.background, atol=1e-4)
    assert torch.allclose(plain.objects.logits, asked.objects.logits, atol=1e-4)


@pytest.mark.parametrize("rule", ["corrected", "released"])
def test_both_ends_of_the_threshold_train(rule):
    """At 1 nothing is claimed, for no smoothed map exceeds 1; at 0 all is claimed but where a map is nowhere."""
    batch = batch_of((1, "usual"), (2, "full"))
    losses = {}
    for threshold in (0.0, 0.3, 1.0):
        model = tiny_partclipseg(attention_threshold=threshold, attention_rule=rule, separation_weight=1.0)
        losses[threshold] = model.loss(batch)["loss_separation"].item()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(model, batch).values())
    assert losses[0.0] > losses[0.3] > losses[1.0] >= 0
    if rule == "released":
        assert losses[1.0] == 0
    for outside in (-0.01, 1.01):
        with pytest.raises(ValueError, match=r"threshold\n.*than or equal to [01]"):
            tiny_partclipseg(attention_threshold=outside)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"object_weight": 0.0},
        {"part_weight": 0.0},
        {"object_weight": 0.0, "part_weight": 0.0},
        {"separation_weight": 0.0, "enhancement_weight": 0.0},
        {"object_weight": 0.0, "part_weight": 0.0, "separation_weight": 0.0, "enhancement_weight": 0.0},
        {"training_queries": 2},
    ],
)
@pytest.mark.parametrize("kind", ["usual", "no parts", "empty"])
def test_everything_that_trains_has_a_gradient(options, kind):
    """What several devices ask of a model, whatever terms are left out and whatever a picture shows."""
    model = tiny_partclipseg(**options).train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert gradients(model, batch_of((1, kind))).keys() == trained


def test_faint_claims_overlap_as_much_as_their_product():
    claims = torch.full((2, 3, 3), 1e-5)
    # Two of two claim: p^2; at least one: 2 p - p^2.
    assert overlap(claims).item() == pytest.approx(1e-10 / (2e-5 - 1e-10), rel=1e-3)


def test_the_head_of_the_queries_is_frozen_where_nothing_trains_it():
    model = tiny_partclipseg(object_weight=0.0, part_weight=0.0)
    usual = set(tiny_partclipseg().set_trainable(RELEASED_GROUPS))
    left_out = usual - set(model.set_trainable(RELEASED_GROUPS))
    assert left_out == {name for name, _ in model.named_parameters() if name.startswith("decoder.head.")}
    assert {id(p) for group in model.parameter_groups(1e-4) for p in group["params"]} == {
        id(parameter) for parameter in model.parameters() if parameter.requires_grad
    }
    again = tiny_partclipseg(object_weight=0.0)
    assert set(again.set_trainable(RELEASED_GROUPS)) == usual


def test_parameters_know_how_many_layers_the_decoder_has():
    sizes = SYSTEMS["partclipseg"].sizes
    assert {name: len(size.extract_layers) for name, size in sizes.items()} == DECODER_LAYERS
    assert DECODER_LAYERS["released"] == len(RELEASED.extract_layers)

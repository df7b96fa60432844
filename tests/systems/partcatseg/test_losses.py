"""PartCATSeg's losses against recorded values, and against the definition with one-hot maps and boolean selection."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.systems.partcatseg import losses as partcatseg_losses
from ovparts_lib.systems.partcatseg.losses import (
    NO_LABEL,
    PartTargets,
    compositional_loss,
    distribution_distance,
    segmentation_losses,
    summed_cross_entropy,
)

BACKGROUND_WEIGHT = 0.05
FOLDER = Path(__file__).parents[2] / "golden" / "partcatseg"
PART_TO_GENERIC, PART_TO_OBJECT = (1, 0, 1, 2, 0), (0, 0, 1, 1, 2)


def selected_cross_entropy(logits, positive, weights, pixels):
    """Mean over selected pixels and all channels; logits (b, c, h, w), positive bool alike, pixels bool (b, h, w)."""
    chosen, wanted = logits.permute(0, 2, 3, 1)[pixels], positive.permute(0, 2, 3, 1)[pixels].float()
    return F.binary_cross_entropy_with_logits(chosen, wanted, weights.expand_as(chosen)) if len(chosen) else 0.0


def one_hot(labels, count):
    channels = torch.arange(count).view(-1, 1, 1)
    return labels.unsqueeze(1) == channels


def by_definition(generic_logits, specific_logits, targets):
    """Both label maps have the covered size; sizes are equal."""
    part_maps, object_maps = (torch.stack([getattr(t, kind) for t in targets]) for kind in ("parts", "objects"))
    full = [F.interpolate(z, size=part_maps.shape[-2:], mode="bilinear") for z in (generic_logits, specific_logits)]
    labelled, background = part_maps != NO_LABEL, object_maps == NO_LABEL
    weights = {n: torch.tensor([1.0] * (n - 1) + [BACKGROUND_WEIGHT]) for n in (4, 6)}
    specific = one_hot(part_maps, 6)
    specific[:, -1] |= background
    generic = torch.tensor([*PART_TO_GENERIC, NO_LABEL])[part_maps]
    objects = one_hot(object_maps, 4)
    objects[:, -1] |= background
    shown = background & (~background).any()
    everywhere = torch.ones_like(labelled)
    return {
        "loss_specific_part": selected_cross_entropy(full[1], specific, weights[6], labelled),
        "loss_specific_background": selected_cross_entropy(full[1], specific, weights[6], shown),
        "loss_part": selected_cross_entropy(full[0][:, :3], one_hot(generic, 3), torch.ones(3), labelled),
        "loss_object": selected_cross_entropy(full[0][:, 3:], objects, weights[4], everywhere),
    }


def part_targets(parts, objects):
    return PartTargets(parts, torch.tensor([*PART_TO_GENERIC, NO_LABEL])[parts], objects)


def random_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, count, 6, 5, generator=generator) * 3 for count in (7, 6)]
    parts = torch.randint(-1, 5, (2, 20, 24), generator=generator)
    objects = torch.randint(-1, 3, (2, 20, 24), generator=generator)  # independent, so that they also disagree
    return *logits, [part_targets(*maps) for maps in zip(parts, objects, strict=True)]


@pytest.mark.parametrize("case", ["mixed", "no part", "no object", "no background"])
def test_the_segmentation_losses_are_their_definition(case):
    generic_logits, specific_logits, targets = random_case()
    if case == "no part":
        targets = [part_targets(torch.full_like(t.parts, NO_LABEL), t.objects) for t in targets]
    if case == "no object":
        [labels.objects.fill_(NO_LABEL) for labels in targets]
    if case == "no background":
        [labels.objects.clamp_(min=0) for labels in targets]
    ours = segmentation_losses(generic_logits, specific_logits, targets, 3, BACKGROUND_WEIGHT)
    theirs = by_definition(generic_logits, specific_logits, targets)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(float(value), rel=1e-5, abs=1e-9), name
    assert (ours["loss_specific_part"] == 0) == (case == "no part")
    assert (ours["loss_specific_background"] == 0) == (case in ("no object", "no background"))


@pytest.mark.parametrize("recompute", [False, True])
def test_their_gradients_are_those_of_the_definition(recompute):
    generic_logits, specific_logits, targets = random_case(1)
    pair = [generic_logits.requires_grad_(), specific_logits.requires_grad_()]
    ours = torch.autograd.grad(
        sum(segmentation_losses(*pair, targets, 3, BACKGROUND_WEIGHT, recompute=recompute).values()), pair
    )
    theirs = torch.autograd.grad(sum(by_definition(*pair, targets).values()), pair)
    torch.testing.assert_close(ours, theirs)


def test_many_channels_are_summed_in_chunks(monkeypatch):
    monkeypatch.setattr(partcatseg_losses, "_PIXELS_AT_ONCE", 4 * 56)
    logits, labels = torch.randn(21, 4, 4), torch.randint(-1, 21, (8, 7))
    pixels = torch.rand(3, 8, 7) < torch.tensor([0.3, 0.6, 1.0]).view(3, 1, 1)
    full = F.interpolate(logits[None], size=(8, 7), mode="bilinear")
    terms = F.binary_cross_entropy_with_logits(full, one_hot(labels[None], 21).float(), reduction="none")[0]
    expected = torch.stack([(terms * chosen).sum((1, 2)) for chosen in pixels], dim=1)
    torch.testing.assert_close(summed_cross_entropy(logits, [labels], pixels), expected)


def test_images_of_different_sizes_are_pooled_by_pixel():
    generic_logits, specific_logits, targets = random_case()
    small = part_targets(targets[1].parts[:6, :6], targets[1].objects[:6, :6])
    mixed = [targets[0], small]
    together = segmentation_losses(generic_logits, specific_logits, mixed, 3, BACKGROUND_WEIGHT)
    alone = [
        by_definition(generic_logits[i : i + 1], specific_logits[i : i + 1], [labels]) for i, labels in enumerate(mixed)
    ]
    pixels = [int((labels.parts != NO_LABEL).sum()) for labels in mixed]
    expected = sum(n * one["loss_part"] for n, one in zip(pixels, alone, strict=True)) / sum(pixels)
    torch.testing.assert_close(together["loss_part"], expected)
    expected = (20 * 24 * alone[0]["loss_object"] + 36 * alone[1]["loss_object"]) / (20 * 24 + 36)
    torch.testing.assert_close(together["loss_object"], expected)


def test_large_logits_and_half_precision_stay_finite():
    generic_logits, specific_logits, targets = random_case()
    with torch.autocast("cpu", torch.bfloat16):
        losses = segmentation_losses(
            (generic_logits * 1000).bfloat16(), (specific_logits * 1000).bfloat16(), targets, 3, BACKGROUND_WEIGHT
        )
        composition = compositional_loss(
            torch.randn(1, 4, 2, 2).bfloat16() * 90, torch.randn(1, 6, 2, 2) * 90, PART_TO_OBJECT
        )
    for value in (*losses.values(), composition):
        assert value.dtype == torch.float32
        assert value.isfinite()


def test_the_recorded_distributions_have_the_recorded_divergence():
    golden = np.load(FOLDER / "golden_train_voc_mini.npz")
    facts = json.loads((FOLDER / "golden_train_voc_mini.json").read_text(encoding="utf-8"))["info"]
    mapped, objects = (torch.from_numpy(golden[name])[..., None] for name in ("jsd_mapped_specific", "jsd_obj"))
    found = distribution_distance(mapped + 1e-10, objects + 1e-10, "jensen_shannon")
    assert found.item() == pytest.approx(facts["jsd_loss"], rel=1e-5)


def test_equal_costs_leave_the_divergence_of_the_number_of_parts():
    """Uniform softmaxes: parts count for objects (2, 2, 1) and the background, out of 6, against 1 in 4 each."""
    found = compositional_loss(torch.zeros(2, 4, 3, 3), torch.zeros(2, 6, 3, 3), PART_TO_OBJECT)
    of_parts, of_objects = torch.tensor([2, 2, 1, 1]) / 6, torch.full((4,), 0.25)
    middle = (of_parts + of_objects) / 2
    expected = (of_parts * (of_parts / middle).log() + of_objects * (of_objects / middle).log()).sum() / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_symmetric_divergence_is_the_mean_of_both_directions():
    first, second = (torch.randn(2, 5, 3, 4).softmax(1) for _ in range(2))
    both = [F.kl_div(q.log(), p, reduction="none").sum(1).mean() for p, q in ((first, second), (second, first))]
    torch.testing.assert_close(distribution_distance(first, second, "symmetric_kl"), sum(both) / 2)


def test_the_compositional_loss_is_zero_when_parts_follow_their_object():
    """One part per object and equal costs: both distributions are the same."""
    cost = torch.randn(1, 4, 3, 3)
    assert compositional_loss(cost, cost, (0, 1, 2)).item() == pytest.approx(0, abs=1e-7)

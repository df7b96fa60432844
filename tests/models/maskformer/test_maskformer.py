"""MaskFormer's blocks against closed formulas, brute force and independent implementations."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from ovparts_lib.models.clip.towers import MINIATURE
from ovparts_lib.models.maskformer import losses, matching
from ovparts_lib.models.maskformer.matching import Segments
from ovparts_lib.models.maskformer.pixel_decoder import PixelDecoder
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.models.maskformer.transformer_decoder import TransformerDecoder, attend, sine_position

SIZE = ProposalSize(replace(MINIATURE, embed_dim=10), width=16, groups=4, queries=5, heads=4, hidden=24, class_hidden=8)


def test_sine_position_of_one_cell():
    position = sine_position(5, 7, 16)
    row, column = 3, 2
    for axis, (place, length) in enumerate(((row, 5), (column, 7))):
        for k in range(8):
            angle = (place + 1) / (length + 1e-6) * 2 * math.pi / 10000 ** (2 * (k // 2) / 8)
            expected = math.cos(angle) if k % 2 else math.sin(angle)
            assert position[8 * axis + k, row, column].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("biased", [False, True])
def test_attention_is_torchs_with_a_float_key_mask(biased):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    bias = torch.rand(2, 6) if biased else None
    expected, _ = module(query, key, value, key_padding_mask=bias)
    found = attend(module, query, key, value, None if bias is None else bias[:, None, None])
    torch.testing.assert_close(found, expected)


def test_decoder_is_torchs_post_norm_layer_where_nothing_has_a_position():
    torch.manual_seed(0)
    decoder = TransformerDecoder(replace(SIZE, layers=2), 12).eval()
    layer = nn.TransformerDecoderLayer(16, 4, 24, batch_first=True).eval()
    layer.load_state_dict(decoder.layers[0].state_dict())
    content, memory = torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    found = decoder.layers[0](content, torch.zeros(1, 5, 16), memory, memory, None)
    torch.testing.assert_close(found, layer(content, memory))


def test_a_key_bias_draws_attention_and_every_layer_is_returned():
    torch.manual_seed(0)
    decoder = TransformerDecoder(replace(SIZE, layers=3), 12).eval()
    features = torch.randn(2, 12, 3, 4)
    states = decoder(features)
    assert states.shape == (3, 2, 5, 16)
    assert decoder.class_embed(states).shape == (3, 2, 5, 10)
    torch.testing.assert_close(decoder(features, torch.ones(2, 12)), states)  # a constant changes no softmax
    alone = torch.full((2, 12), -1e9)
    alone[:, 5] = 0
    assert not torch.allclose(decoder(features, alone), states)


def test_pixel_decoder_gives_the_finest_maps_size():
    decoder = PixelDecoder(SIZE, (4, 6, 8, 10))
    maps = [
        torch.randn(1, channels, size, size + 1) for channels, size in zip((4, 6, 8, 10), (17, 9, 5, 3), strict=True)
    ]
    assert decoder(maps).shape == (1, 16, 17, 18)


def test_matching_is_the_best_of_all_assignments():
    torch.manual_seed(1)
    classes, masks = torch.randn(5, 4), torch.randn(5, 6, 8)
    segments = Segments(torch.tensor([2, 0, 1]), torch.rand(3, 12, 16) > 0.5)
    targets = segments.masks[:, ::2, ::2].flatten(1).float()
    logits = masks.flatten(1)

    def pair_cost(query, target):
        z, y = logits[query], targets[target]
        focal = sigmoid_focal_loss(z, y, alpha=0.25, gamma=2, reduction="mean")
        p = z.sigmoid()
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return 20 * focal - classes[query].softmax(0)[segments.class_ids[target]] + dice

    best = min(permutations(range(5), 3), key=lambda chosen: sum(pair_cost(q, t) for t, q in enumerate(chosen)))
    queries, found = matching.match_maskformer(classes, masks, segments)
    assert {int(t): int(q) for q, t in zip(queries, found, strict=True)} == dict(enumerate(best))


def test_costs_of_pairs_are_the_losses_of_pairs():
    torch.manual_seed(2)
    logits, targets = torch.randn(3, 20), (torch.rand(2, 20) > 0.5).float()
    for cost, loss in (
        (matching.focal_cost, losses.focal_loss),
        (matching.cross_entropy_cost, losses.cross_entropy_loss),
        (matching.dice_cost, losses.dice_loss),
    ):
        pairs = [[loss(z[None], y[None]) for y in targets] for z in logits]
        torch.testing.assert_close(cost(logits, targets), torch.tensor(pairs))


def test_diverged_predictions_are_matched_without_an_error():
    segments = Segments(torch.tensor([0]), torch.ones(1, 4, 4, dtype=torch.bool))
    queries, _ = matching.match_maskformer(torch.full((3, 2), float("nan")), torch.zeros(3, 4, 4), segments)
    assert len(queries) == 1


def test_losses_of_every_layer_and_of_images_without_segments():
    torch.manual_seed(3)
    classes = torch.randn(3, 2, 6, 5, requires_grad=True)
    masks = torch.randn(3, 2, 6, 4, 4, requires_grad=True)
    some = Segments(torch.tensor([1, 3]), torch.rand(2, 16, 16) > 0.5)
    none = Segments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16, 16, dtype=torch.bool))
    found = losses.maskformer_losses(classes, masks, [some, none])
    assert set(found) == {f"loss_{kind}{layer}" for kind in ("ce", "mask", "dice") for layer in ("", "_0", "_1")}
    queries, targets = matching.match_maskformer(classes[2, 0], masks[2, 0], some)
    wanted = torch.full((2, 6), 4)
    wanted[0, queries] = some.class_ids[targets]
    weights = torch.where(wanted == 4, 0.1, 1.0)
    entropy = F.cross_entropy(classes[2].flatten(0, 1), wanted.flatten(), reduction="none").view(2, 6)
    torch.testing.assert_close(found["loss_ce"], (weights * entropy).sum() / weights.sum())
    enlarged = F.interpolate(masks[2, 0, queries][None], size=(16, 16), mode="bilinear")[0]
    focal = sigmoid_focal_loss(enlarged, some.masks[targets].float(), reduction="none").mean((1, 2)).sum() / 2
    torch.testing.assert_close(found["loss_mask"], 20 * focal)
    empty = losses.maskformer_losses(classes, masks, [none, none])
    assert empty["loss_mask"].item() == 0
    sum(empty.values()).backward()  # the masks stay in the graph, so that no process waits for a gradient
    assert masks.grad is not None


def test_the_number_of_targets_is_averaged_over_processes(monkeypatch):
    segments = [Segments(torch.arange(3), torch.zeros(3, 1, 1, dtype=torch.bool))]
    assert losses.target_count(segments, torch.device("cpu")) == 3
    assert losses.target_count([], torch.device("cpu")) == 1
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(4))  # the other process has 4
    assert losses.target_count(segments, torch.device("cpu")) == 3.5


def test_points_are_bilinear_values_and_uncertain_ones_are_near_the_border():
    maps = torch.arange(12.0).view(1, 3, 4)
    centres = torch.tensor([[[0.125, 1 / 6], [0.375, 0.5], [0.25, 1 / 6]]])
    np.testing.assert_allclose(losses.sample_points(maps, centres), [[0, 5, 0.5]], atol=1e-5)
    logits = (torch.linspace(-4, 4, 64)[None, None] * torch.ones(2, 64, 1)).contiguous()
    torch.manual_seed(0)
    points = losses.uncertain_points(logits, 40)
    assert points.shape == (2, 40, 2)
    near = losses.sample_points(logits, points).abs()
    assert near[:, :30].max() < near[:, 30:].max()
    assert near[:, :30].mean() < 1.2

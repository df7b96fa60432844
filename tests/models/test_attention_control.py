from itertools import product

import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import gaussian_blur

from ovparts_lib.models.attention_control import memberships, overlap, pooled_attention, smooth, strength


@pytest.fixture
def attention():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(layer.in_proj_weight)
    nn.init.normal_(layer.in_proj_bias)
    return layer


def test_pooled_rows_are_those_of_torchs_attention(attention):
    tokens, rows = torch.randn(2, 13, 8), torch.tensor([2, 7, 12])
    _, weights = attention(tokens, tokens, tokens, average_attn_weights=True)
    torch.testing.assert_close(pooled_attention(attention, tokens, rows), weights[:, rows].mean(0).sum(0)[1:])


def test_no_rows_give_an_empty_map(attention):
    assert (
        pooled_attention(attention, torch.randn(2, 13, 8), torch.tensor([], dtype=torch.int64)).tolist() == [0.0] * 12
    )


def test_only_the_rows_that_are_needed_are_kept_for_the_backward_pass(attention):
    tokens, sizes = torch.randn(2, 401, 8, requires_grad=True), []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pooled_attention(attention, tokens, torch.arange(1, 6)).sum().backward()
    assert max(sizes) <= 2 * 2 * 5 * 401


def test_smoothing_is_a_gaussian_of_sigma_one_over_root_two():
    maps = torch.rand(3, 6, 5)
    torch.testing.assert_close(smooth(maps), gaussian_blur(maps, [3, 3], [0.5**0.5, 0.5**0.5]))
    torch.testing.assert_close(strength(maps), smooth(maps).flatten(1).max(1).values)


def test_a_map_claims_what_is_above_the_threshold_inside_the_box():
    maps = torch.zeros(1, 7, 7)
    maps[0, 3, 3] = 1e-4
    box = torch.ones(7, 7, dtype=torch.bool)
    # Of the peak, 0.332 stays in place and 0.122 goes to each side.
    assert memberships(maps, box, 0.3)[0].nonzero().tolist() == [[3, 3]]
    assert memberships(maps, box, 0.1).sum() == 5
    box[:, 3:] = False
    assert memberships(maps, box, 0.1)[0].nonzero().tolist() == [[3, 2]]
    soft = memberships(maps, torch.ones(7, 7), 0.332, soft=True)
    assert soft[0, 3, 3].item() == pytest.approx(0.5, abs=0.01)


def test_a_flat_map_claims_nothing():
    assert not memberships(torch.full((2, 5, 5), 0.2), torch.ones(5, 5), 0.3).any()


def test_overlap_counts_patches():
    claims = torch.zeros(3, 2, 3)
    claims[0, 0] = claims[1, 0, :2] = claims[2, 0, 0] = claims[2, 1, 2] = 1
    assert overlap(claims).item() == pytest.approx(2 / 4)
    assert overlap(torch.zeros(2, 2, 3)) == 0
    assert overlap(claims[:1]) == 0


def test_overlap_of_probabilities_is_the_ratio_of_expected_counts():
    chances = torch.rand(3, 1, 1)
    one, more = 0.0, 0.0
    for outcome in product((0, 1), repeat=3):
        p = torch.prod(torch.where(torch.tensor(outcome) == 1, chances.flatten(), 1 - chances.flatten())).item()
        one, more = one + p * (sum(outcome) >= 1), more + p * (sum(outcome) > 1)
    assert overlap(chances).item() == pytest.approx(more / one, rel=1e-5)

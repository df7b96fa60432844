from itertools import product

import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import gaussian_blur

from ovparts_lib.models.attention_overlap import memberships, overlap, smooth, strength
from ovparts_lib.systems.part_queries import part_queries
from ovparts_lib.systems.partclipseg.losses import (
    attention_terms,
    mean_attention_terms,
    pooled_attention,
)
from ovparts_lib.vocabularies import PartVocabulary


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


# --- the terms of an image --------------------------------------------------------------------------------------------


WORDS = PartVocabulary("toy", ("dog's tail", "dog's head", "bird's head", "bird's wing"), ("dog", "bird"))
QUERIES = part_queries(WORDS, range(4))  # head, tail, wing; bird, dog; background


def plain_terms(attention, tokens, part_map, object_map, parts, objects, threshold, rule):
    """Both terms from whole attention matrices of all queries, as the paper and the released code have them."""
    _, weights = attention(tokens, tokens, tokens, average_attn_weights=True)
    released, side = rule == "released", len(part_map)
    pairs = zip(QUERIES.part_queries.tolist(), QUERIES.object_queries.tolist(), strict=True)
    whole = [(weights[one] + weights[other])[1:, 1:] / 2 for one, other in pairs]
    separation, enhancement, number = 0, 0, 0
    for owner in objects:
        claims, peaks = [], []
        for part in parts:
            asking = (part_map == part).flatten()
            if not released and (not asking.any() or QUERIES.object_queries[part] != owner):
                continue
            mean = (whole[part] * asking[:, None]).sum(0).view(side, side) / (side**2 if released else asking.sum())
            claim = smooth(((mean - mean.min()) / (mean.max() - mean.min() + 1e-9))[None])[0] - threshold
            claims.append(
                (torch.sigmoid(claim / 0.05) if not released else (claim > 0).float()) * (object_map == owner)
            )
            peaks.append(smooth(mean[None]).max())
        if not claims:
            continue
        number += 1
        chances = torch.stack(claims).double()  # differences from 1 of faint claims are rounding errors in float32
        none = torch.prod(1 - chances, 0)
        alone = [
            chances[i] * torch.prod(1 - chances[[j for j in range(len(chances)) if j != i]], 0)
            for i in range(len(chances))
        ]
        separation += ((1 - none - sum(alone)).sum() / ((1 - none).sum() + 1e-9)).float()
        enhancement += 1 - min(min(peaks), torch.ones(()))
    return separation, enhancement, number


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rule", ["corrected", "released"])
@pytest.mark.parametrize("outside", [True, False])
def test_terms_and_gradients_are_those_of_whole_attention_maps(attention, rule, threshold, outside):
    """The dog (query 4) is left, the bird (query 3) right; the head of the bird has pixels but no patch."""
    tokens = torch.randn(6, 26, 8, requires_grad=True)
    part_map, object_map = torch.full((5, 5), -1), torch.full((5, 5), -1)
    object_map[:, :3], object_map[:, 3:] = 4, 3
    part_map[:2, :3], part_map[3:, :2], part_map[1:3, 3:] = 0, 1, 3
    if outside:
        object_map[4, 4] = -1
    pixel_objects = torch.tensor([-1, 3, 4] if outside else [3, 4])
    # As released, the largest id is dropped where no pixel is outside: here the dog.
    counted = [3, 4] if outside or rule == "corrected" else [3]
    plain = plain_terms(attention, tokens, part_map, object_map, [0, 1, 2, 3], counted, threshold, rule)
    found = attention_terms(
        attention,
        tokens,
        QUERIES,
        part_map,
        object_map,
        pixel_parts=torch.tensor([-1, 0, 1, 2, 3]),
        pixel_objects=pixel_objects,
        threshold=threshold,
        rule=rule,
    )
    assert found[2] == plain[2] == len(counted)
    for ours, theirs in zip(found[:2], plain[:2], strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad
        if ours.requires_grad:
            inputs = [tokens, attention.in_proj_weight]
            ours, theirs = (torch.autograd.grad(term, inputs, retain_graph=True) for term in (ours, theirs))
            for own, expected in zip(ours, theirs, strict=True):
                assert (own - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize("rule", ["corrected", "released"])
def test_an_image_without_labelled_parts_has_no_terms(attention, rule):
    nothing, objects = torch.full((5, 5), -1), torch.full((5, 5), 4)
    found = attention_terms(
        attention,
        torch.randn(6, 26, 8),
        QUERIES,
        nothing,
        objects,
        pixel_parts=torch.tensor([-1]),
        pixel_objects=torch.tensor([-1, 4]),
        threshold=0.3,
        rule=rule,
    )
    assert [float(each) for each in found] == [0, 0, 0]
    assert [float(each) for each in mean_attention_terms([found, found], "batch", rule)] == [0, 0]

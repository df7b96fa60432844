"""The blocks of cost aggregation, against plain ways of writing them down."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from ovparts_lib.models.cost_aggregation import (
    AggregatorLayer,
    AggregatorSize,
    AppearanceGuidance,
    Chunks,
    ClassAggregation,
    CostEmbedding,
    GuidedDecoder,
    TextGuidance,
    aggregate,
    cost_volume,
    mean_cost,
)
from ovparts_lib.models.cost_aggregation.class_attention import attention_weights, linear_attention
from ovparts_lib.models.cost_aggregation.spatial import WindowAttention


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def test_cost_volume_holds_cosines():
    features, text = normal(2, 5, 3, 4), normal(6, 2, 5, seed=1)
    cost = cost_volume(features, text)
    assert cost.shape == (2, 6, 2, 3, 4)
    expected = F.cosine_similarity(features[1, :, 2, 3], text[4, 1], dim=0)
    assert cost[1, 4, 1, 2, 3].item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(mean_cost(features, text), cost.mean(2), atol=1e-6)


def test_cost_volume_of_features_that_each_text_has_for_itself():
    features, text = normal(2, 6, 5, 3, 4), normal(6, 2, 5, seed=1)
    cost = cost_volume(features, text)
    expected = F.cosine_similarity(features[1, 4, :, 2, 3], text[4, 1], dim=0)
    assert cost[1, 4, 1, 2, 3].item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(mean_cost(features, text), cost.mean(2), atol=1e-6)


def test_embedding_convolves_each_text_alone():
    embed, cost = CostEmbedding(2, 4, kernel=3), normal(2, 5, 2, 6, 6)
    expected = F.conv2d(cost[1, 3][None], embed.weight, embed.bias, padding=1)[0]
    assert torch.allclose(embed(cost)[1, 3], rearrange(expected, "c h w -> h w c"), atol=1e-6)


def plain_window_attention(module, x, guidance):
    """One head, one position at a time: who shares a window after the roll, and whether the roll tore them apart."""
    side, dim = x.shape[2], x.shape[-1]
    joined = torch.cat([x, guidance.expand(*x.shape[:4], -1)], dim=-1)
    query, key, value = module.query.weight, module.key.weight, module.value(x)
    query, key = F.linear(joined, query, module.query.bias), F.linear(joined, key, module.key.bias)
    out = torch.zeros_like(x)
    places = [(row, column) for row in range(side) for column in range(side)]

    def rolled(place):
        return tuple((coordinate - module.shift) % side for coordinate in place)

    for asking in places:
        window = [other for other in places if all(
            a // module.window == b // module.window for a, b in zip(rolled(asking), rolled(other), strict=True)
        )]  # fmt: skip
        scores = []
        for other in window:
            torn = any(
                (a >= module.shift) != (b >= module.shift)
                and max(rolled(asking)[axis], rolled(other)[axis]) >= side - module.shift
                for axis, (a, b) in enumerate(zip(asking, other, strict=True))
            )
            score = (query[..., *asking, :] * key[..., *other, :]).sum(-1) * dim**-0.5
            scores.append(score - 100 if torn else score)
        weights = torch.stack(scores, -1).softmax(-1)
        out[..., *asking, :] = sum(weights[..., n, None] * value[..., *other, :] for n, other in enumerate(window))
    return module.out(out)


@torch.no_grad()
@pytest.mark.parametrize("shift", [0, 2])
def test_window_attention_is_the_plain_one(shift):
    module = WindowAttention(6, 3, heads=1, window=4, shift=shift)
    x, guidance = normal(2, 2, 8, 8, 6), normal(2, 1, 8, 8, 3, seed=1)
    assert torch.allclose(module(x, guidance), plain_window_attention(module, x, guidance), atol=1e-5)


def test_linear_attention_is_what_its_weights_say():
    query, key, value = (normal(3, 7, 4, seed=seed) for seed in range(3))
    assert torch.allclose(
        linear_attention(query, key, value), attention_weights(query, key, "linear") @ value, atol=1e-6
    )


def test_query_attention_normalises_over_askers_and_then_over_the_asked():
    query, key, value = (normal(5, 4, seed=seed).double() for seed in range(3))
    scores = (query @ key.T / 2).exp()
    weights = scores / scores.sum(0) + 1e-8
    expected = (weights / weights.sum(1, keepdim=True)) @ value
    assert torch.allclose(attention_weights(query, key, "query") @ value, expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "full", "query"])
def test_class_aggregation_step_by_step(kind):
    module = ClassAggregation(8, 4, heads=2, kind=kind)
    x, guidance = normal(2, 5, 4, 4, 8), normal(5, 4, seed=1)
    pooled = F.avg_pool2d(rearrange(x, "b t h w c -> (b t) c h w"), 2)
    tokens = rearrange(pooled, "(b t) c h w -> b (h w) t c", b=2)
    joined = torch.cat([module.norm1(tokens), guidance.expand(2, 4, -1, -1)], dim=-1)
    query, key = (F.linear(joined, part.weight, part.bias) for part in (module.query, module.key))
    value = module.value(module.norm1(tokens))
    query, key, value = (rearrange(y, "b n t (h d) -> b n h t d", h=2) for y in (query, key, value))
    weights = attention_weights(query, key, kind)
    tokens = tokens + rearrange(weights @ value, "b n h t d -> b n t (h d)")
    tokens = tokens + module.fc2(F.relu(module.fc1(module.norm2(tokens))))
    maps = rearrange(tokens, "b (h w) t c -> (b t) c h w", h=2)
    maps = F.interpolate(maps, size=(4, 4), mode="bilinear", align_corners=True)
    expected = x + rearrange(maps, "(b t) c h w -> b t h w c", b=2)

    assert torch.allclose(module(x, guidance, pooling=2), expected, atol=1e-5)
    assert torch.allclose(module.mean_weights(x, guidance), weights.mean((1, 2)), atol=1e-6)
    assert torch.allclose(module.mean_weights(x, guidance).sum(-1), torch.ones(2, 5), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "full", "query"])
def test_mean_weights_are_summed_in_float32_under_autocast(kind):
    module = ClassAggregation(16, 4, heads=2, kind=kind)
    x, guidance = normal(1, 60, 4, 4, 16), normal(60, 4, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        weights = module.mean_weights(x, guidance)
        query, key, _ = module._heads(module._pooled(x, 2), guidance)
    # Projections are rounded to bfloat16; from there on nothing is.
    expected = attention_weights(query.double(), key.double(), kind).mean((1, 2))
    torch.testing.assert_close(weights, expected.float(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 60), rtol=0, atol=1e-5)


@torch.no_grad()
def test_decoder_joins_the_guidance_before_its_first_convolution():
    decoder = GuidedDecoder(16, dims=(32, 8), guidance_dims=(4, 0))
    x, guidance = normal(2, 3, 3, 3, 16), normal(2, 4, 6, 6, seed=1)
    maps = rearrange(x, "b t h w c -> (b t) c h w")
    for stage, given in zip(decoder.stages, (guidance, None), strict=True):
        maps = stage.up(maps)
        if given is not None:
            maps = torch.cat([maps, given.repeat_interleave(3, 0)], dim=1)
        maps = F.relu(stage.norm2(stage.conv2(F.relu(stage.norm1(stage.conv1(maps))))))
    expected = rearrange(decoder.head(maps), "(b t) 1 h w -> b t h w", b=2)
    assert torch.allclose(decoder(x, [guidance, None]), expected, atol=1e-5)
    assert [stage.norm1.num_groups for stage in decoder.stages] == [2, 1]


def test_guidance_projections():
    size = AggregatorSize(
        text_dim=5, dim=16, heads=2, guidance_dim=6, text_guidance_dim=3, decoder_guidance_dims=(0, 2)
    )
    project = AppearanceGuidance(size, (3, 4, 5))
    coarse, finer = project([normal(2, 3, 4, 4), normal(2, 4, 8, 8), normal(2, 5, 16, 16)])
    assert coarse.shape == (2, 4, 4, 6)
    assert finer[0] is None
    assert finer[1].shape == (2, 2, 16, 16)
    assert coarse.min() == 0 == finer[1].min()
    text, guide = F.normalize(normal(4, 3, 5), dim=-1), TextGuidance(size)
    expected = F.relu(F.linear(F.normalize(text.mean(1), dim=-1), guide.weight, guide.bias))
    assert torch.allclose(guide(text), expected)


@pytest.mark.parametrize("kind", ["linear", "full", "query"])
def test_chunks_and_recomputation_change_nothing(kind):
    size = AggregatorSize(
        dim=8,
        guidance_dim=4,
        text_guidance_dim=4,
        heads=2,
        window=2,
        class_attention=kind,
        decoder_guidance_dims=(2, 2),
    )
    layers = torch.nn.ModuleList(AggregatorLayer(size) for _ in range(2))
    decoder = GuidedDecoder(8, dims=(8, 8), guidance_dims=(2, 2))
    guidance, text = normal(2, 4, 4, 4, seed=1), normal(7, 4, seed=2)
    finer = [normal(2, 2, 8, 8, seed=3), normal(2, 2, 16, 16, seed=4)]
    parameters = [*layers.parameters(), *decoder.parameters()]
    results = []
    for chunks in (Chunks(10**6), Chunks(1), Chunks(70), Chunks(70, recompute=True)):
        x = normal(2, 7, 4, 4, 8).requires_grad_()
        logits = decoder(aggregate(layers, x, guidance, text, chunks=chunks), finer, chunks=chunks)
        gradients = torch.autograd.grad(logits.square().mean(), [x, *parameters])
        results.append((logits, *gradients))
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="not a multiple of heads"):
        AggregatorSize(dim=10, heads=4)
    with pytest.raises(ValueError, match="equally long"):
        AggregatorSize(decoder_dims=(64,))
    with pytest.raises(ValueError, match="wider than its guidance"):
        AggregatorSize(decoder_guidance_dims=(128, 16))
    with pytest.raises(ValueError, match=r"class_attention\n.*should be 'linear', 'full' or 'query'"):
        AggregatorSize(class_attention="none")

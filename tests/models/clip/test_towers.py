import numpy as np
import pytest
import torch

from ovparts_lib.models.clip.towers import (
    activation_of,
    build_clip,
    embed_patches,
    image_hidden_states,
    resize_position_embedding,
    self_attention,
)
from tests.systems.tiny import TINY_CLIP


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip(TINY_CLIP).eval()


@pytest.mark.parametrize("quick_gelu", [True, False])
@torch.no_grad()
def test_the_last_state_leads_to_open_clips_image_embedding(quick_gelu):
    clip = build_clip(TINY_CLIP, quick_gelu=quick_gelu).eval()
    pixels = torch.randn(2, 3, 32, 32)
    last = image_hidden_states(clip.visual, pixels, (4,)).states[4]
    torch.testing.assert_close(clip.visual.ln_post(last[:, 0]) @ clip.visual.proj, clip.encode_image(pixels))


@torch.no_grad()
def test_states_are_open_clips_intermediates(clip):
    pixels = torch.randn(2, 3, 32, 32)
    hidden = image_hidden_states(clip.visual, pixels, (0, 1, 3))
    torch.testing.assert_close(hidden.states[0], clip.visual._embeds(pixels))
    theirs = clip.visual.forward_intermediates(pixels, indices=[0, 2], output_fmt="NLC")["image_intermediates"]
    for k, patches in zip((1, 3), theirs, strict=True):
        torch.testing.assert_close(hidden.states[k][:, 1:], patches)
    assert set(hidden.states) == {0, 1, 3}
    assert hidden.grid == (4, 4)
    assert hidden.attention == {}


@torch.no_grad()
def test_only_the_kept_patches_enter(clip):
    visual, pixels = clip.visual, torch.randn(2, 3, 32, 48)
    patches = (32 // visual.patch_size[0]) * (48 // visual.patch_size[0])
    kept = torch.stack([torch.randperm(patches)[:5].sort().values for _ in range(2)])
    everything = embed_patches(visual, pixels)
    tokens = torch.stack([row[[0, *(1 + chosen).tolist()]] for row, chosen in zip(everything, kept, strict=True)])
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        tokens = block(tokens)
        states = image_hidden_states(visual, pixels, [number], kept_patches=kept).states
        torch.testing.assert_close(states[number], tokens)


def test_blocks_behind_the_last_one_needed_are_not_computed(clip):
    calls = []
    hooks = [
        block.mlp.register_forward_hook(lambda *_, number=number: calls.append(number))
        for number, block in enumerate(clip.visual.transformer.resblocks, start=1)
    ]
    image_hidden_states(clip.visual, torch.randn(1, 3, 32, 32), (2, 1))
    image_hidden_states(clip.visual, torch.randn(1, 3, 32, 32), (0,))
    for hook in hooks:
        hook.remove()
    assert calls == [1, 2]


@torch.no_grad()
def test_attention_maps_are_those_of_torch_and_change_nothing(clip):
    pixels = torch.randn(2, 3, 40, 24)
    plain = image_hidden_states(clip.visual, pixels, (1, 2))
    kept = image_hidden_states(clip.visual, pixels, (1, 2), keep_attention=(2,))
    torch.testing.assert_close(kept.states[2], plain.states[2])
    assert set(kept.attention) == {2}
    block = clip.visual.transformer.resblocks[1]
    x = block.ln_1(plain.states[1])
    _, theirs = block.attn(x, x, x, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(kept.attention[2], theirs)
    assert kept.grid == (5, 3)


@torch.no_grad()
def test_causal_attention_with_and_without_weights(clip):
    attention, tokens = clip.transformer.resblocks[0].attn, torch.randn(3, 5, 16)
    mixed, weights = self_attention(attention, tokens, causal=True, keep_weights=True)
    torch.testing.assert_close(self_attention(attention, tokens, causal=True)[0], mixed)
    assert weights.triu(1).abs().max() == 0


def cubic(distance, a=-0.75):
    """Keys' kernel, as torch's bicubic uses it."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@pytest.mark.parametrize("grid", [(6, 6), (3, 9)])
def test_positions_are_resized_by_the_cubic_kernel(grid):
    table = torch.randn(17, 2, generator=torch.Generator().manual_seed(1))
    resized = resize_position_embedding(table, grid)
    torch.testing.assert_close(resized[0], table[0])
    weights = []
    for size in grid:  # rows: outputs, columns: the four inputs; positions beyond the edge take the edge's value
        matrix = np.zeros((size, 4))
        for i in range(size):
            centre = (i + 0.5) * 4 / size - 0.5
            for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                matrix[i, min(max(j, 0), 3)] += cubic(centre - j)
        weights.append(matrix)
    expected = np.einsum("yi,xj,ijc->yxc", *weights, table[1:].reshape(4, 4, 2).numpy())
    np.testing.assert_allclose(resized[1:].reshape(*grid, 2).numpy(), expected, atol=1e-5)


def test_positions_of_the_right_grid_stay_as_they_are():
    table = torch.randn(17, 2)
    assert resize_position_embedding(table, (4, 4)) is table


def test_a_position_embedding_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="12 rows"):
        resize_position_embedding(torch.randn(12, 2), (4, 4))


def test_sides_that_the_patch_does_not_divide_are_refused(clip):
    with pytest.raises(ValueError, match=r"\(32, 36\).*multiples of 8"):
        image_hidden_states(clip.visual, torch.randn(1, 3, 32, 36), (1,))


@pytest.mark.parametrize(("layers", "maps"), [((), ()), ((5,), ()), ((-1,), ()), ((1,), (0,)), ((1,), (5,))])
def test_layers_that_do_not_exist_are_refused(clip, layers, maps):
    with pytest.raises(ValueError, match="states 0 to 4"):
        image_hidden_states(clip.visual, torch.randn(1, 3, 32, 32), layers, keep_attention=maps)


def test_a_clip_tells_its_activation():
    quick, exact = build_clip(TINY_CLIP), build_clip(TINY_CLIP, quick_gelu=False)
    assert (activation_of(quick), activation_of(exact)) == ("quick_gelu", "gelu")


@torch.no_grad()
def test_under_autocast_the_residual_stream_stays_in_float32(clip):
    with torch.autocast("cpu", torch.bfloat16):
        states = image_hidden_states(clip.visual, torch.randn(1, 3, 32, 32), (0, 2)).states
    assert {state.dtype for state in states.values()} == {torch.float32}

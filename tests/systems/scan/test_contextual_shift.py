"""Which tokens CS overwrites, with what, and that nothing else changes."""

from functools import partial

import torch

from ovparts_lib.models.clip.towers import MINIATURE, build_clip, image_embeddings, image_hidden_states
from ovparts_lib.systems.mask_classifier import Crops, embed_crops
from ovparts_lib.systems.scan.contextual_shift import contextual_shift, draw_shifted


def draw(kept, ratio=0.15, seed=0):
    return draw_shifted(kept, (1, 3), ratio, torch.Generator().manual_seed(seed))


def test_a_share_of_the_background_is_drawn_rounded_down_and_never_the_mask():
    kept = torch.zeros(4, 64, dtype=torch.bool)
    kept[1, :31], kept[2, :] = True, True
    kept[3, :60] = True
    shifted = draw(kept)
    assert set(shifted) == {1, 3}
    for chosen in shifted.values():
        assert not (chosen & kept).any()
        assert chosen.sum(1).tolist() == [9, 4, 0, 0]  # of 64, 33, 0 and 4
    assert not torch.equal(shifted[1], shifted[3])


def test_every_background_token_is_as_likely_as_any_other():
    kept = torch.zeros(4000, 10, dtype=torch.bool)
    kept[:, 3] = True
    often = draw(kept, 0.34)[1].float().mean(0)  # 3 of 9
    assert often[3] == 0
    torch.testing.assert_close(often[often > 0], torch.full((9,), 1 / 3), rtol=0, atol=0.04)


def test_the_seed_decides():
    kept = torch.zeros(3, 64, dtype=torch.bool)
    assert torch.equal(draw(kept)[3], draw(kept)[3])
    assert not torch.equal(draw(kept)[3], draw(kept, seed=1)[3])


def test_the_images_class_token_takes_the_place_of_the_drawn_tokens_after_their_block_alone():
    torch.manual_seed(0)
    visual = build_clip(MINIATURE).visual.eval()
    pixels, image = torch.randn(2, 3, 64, 64), torch.randn(1, 3, 64, 64)
    kept = torch.zeros(2, 64, dtype=torch.bool)
    shifted = draw(kept)
    context = {block: states[0, 0] for block, states in image_hidden_states(visual, image, {1, 3}).states.items()}
    hook = contextual_shift(context, shifted)
    with torch.no_grad():
        plain = image_hidden_states(visual, pixels, {0, 1, 2}).states
        hidden = image_hidden_states(visual, pixels, {0, 1, 2, 3}, after_block=hook).states
    assert torch.equal(plain[0], hidden[0])
    after, before = hidden[1][:, 1:], plain[1][:, 1:]
    assert torch.equal(after[~shifted[1]], before[~shifted[1]])
    assert torch.equal(after[shifted[1]], context[1].detach().expand(18, -1))
    assert torch.equal(hidden[1][:, 0], plain[1][:, 0])  # the crop's own class token
    assert not torch.equal(hidden[2][:, 0], plain[2][:, 0])  # which sees the context in the next block
    assert torch.equal(hidden[3][:, 1:][shifted[3]], context[3].detach().expand(18, -1))


def test_how_crops_are_divided_into_passes_changes_nothing():
    torch.manual_seed(0)
    visual = build_clip(MINIATURE).visual.eval()
    kept = torch.zeros(5, 64, dtype=torch.bool)
    kept[:, :20] = True
    crops = Crops(torch.ones(5, dtype=torch.bool), torch.zeros(5, 4), torch.randn(5, 3, 64, 64), kept)
    context = {1: torch.randn(96), 3: torch.randn(96)}
    with torch.no_grad():
        together = embed_crops(visual, crops, 5, partial(contextual_shift, context, draw(kept)))
        apart = embed_crops(visual, crops, 2, partial(contextual_shift, context, draw(kept)))
        torch.testing.assert_close(apart, together)
        plain = torch.nn.functional.normalize(image_embeddings(visual, crops.pixels), dim=-1)
        torch.testing.assert_close(embed_crops(visual, crops, 5, partial(contextual_shift, context, {})), plain)
        assert not torch.allclose(plain, together, atol=1e-3)

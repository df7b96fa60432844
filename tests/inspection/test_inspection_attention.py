import numpy as np
import pytest
import torch

from ovparts_lib.inspection import clip_attention, decoder_attention, score_maps
from ovparts_lib.inspection.attention import attention_map, attention_table, peak_patch
from ovparts_lib.inspection.heat_maps import render_heat
from ovparts_lib.systems.scores import AttentionMaps, Scores

GRID = (3, 4)
TOKENS = 13


def softmax(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def scores_with_attention():
    logits = torch.full((3, 6, 8), -4.0)
    logits[0, 5, 7] = 1.0
    logits[1, 0, 0] = 5.0
    logits[2, 2, 3] = 3.0
    maps = AttentionMaps(
        GRID,
        {layer: softmax(3, 2, TOKENS, TOKENS, seed=layer) for layer in range(2)},
        {block: softmax(4, TOKENS, TOKENS, seed=10 + block) for block in (1, 2, 3, 4, 5, 6)},
        ("cat head", "cat tail", "dog head"),
    )
    return Scores(logits, (0, 1, 2), None, (30, 40)), maps


def image(height=30, width=40):
    return np.full((height, width, 3), 100, np.uint8)


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_maps_are_rows_of_the_mean_over_heads():
    attention = softmax(5, TOKENS, TOKENS)
    mean = attention.double().mean(0).numpy()
    np.testing.assert_allclose(attention_map(attention, GRID, (2, 1)).ravel(), mean[1 + 2 * 4 + 1, 1:])


def test_the_asking_patch_holds_the_largest_logit():
    scores, _ = scores_with_attention()
    assert [peak_patch(logits, GRID) for logits in scores.logits] == [(2, 3), (0, 0), (1, 1)]


def test_heat_is_painted_at_full_size_where_the_attention_is():
    values = np.zeros(GRID)
    values[2, 3] = 0.5
    painted = render_heat(image(300, 400), values)
    assert painted.shape == (300, 400, 3)
    assert painted.dtype == np.uint8
    assert painted[290, 390].astype(int).sum() > painted[10, 10].astype(int).sum() + 150
    assert np.ptp(painted[10, 10].astype(int)) <= 2  # no heat: the grey picture
    np.testing.assert_array_equal(render_heat(image(), np.zeros(GRID)), render_heat(image(), np.zeros(GRID), top=1.0))


def test_decoder_figure_says_word_layer_and_who_asks():
    figure = decoder_attention(image(), *scores_with_attention(), "p").figure
    words = ("cat tail", "dog head", "cat head")  # those that score highest first
    assert titles(figure) == [f"“{word}”, layer {layer}" for word in words for layer in (0, 1)]
    assert figure.get_suptitle() == (
        "Decoder self-attention, mean over heads, from the patch where the word scores highest (cross)"
    )
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(figure.axes) == 2 * len(panels)  # a colour bar each
    x, y = panels[2].lines[-1].get_data()
    assert (x[0], y[0]) == (pytest.approx(1.5 / 4 * 40), pytest.approx(1.5 / 3 * 30))


def test_words_stand_side_by_side_where_there_is_one_layer():
    scores, maps = scores_with_attention()
    maps.decoder = {1: maps.decoder[1]}
    panel = decoder_attention(image(), scores, maps, "p")
    assert titles(panel.figure) == ["“cat tail”, layer 1", "“dog head”, layer 1", "“cat head”, layer 1"]
    tops = {round(ax.get_position().y1, 3) for ax in panel.figure.axes if ax.get_title()}
    assert len(tops) == 1


def test_clip_figure_says_block_and_who_asks():
    figure = clip_attention(image(), *scores_with_attention(), "p").figure
    assert titles(figure) == [f"block {block}" for block in range(1, 7)]
    assert figure.get_suptitle().endswith("from the patch where “cat tail” scores highest (cross)")


def test_the_colour_bar_ends_at_the_largest_weight():
    scores, maps = scores_with_attention()
    maps.clip = {3: maps.clip[3]}
    panel = clip_attention(image(), scores, maps, "p")
    top = attention_map(maps.clip[3], GRID, (0, 0)).max()
    bar = next(ax for ax in panel.figure.axes if not ax.get_title())
    assert bar.get_xlim() == (0, pytest.approx(top))
    assert panel.table["attention"].max() == pytest.approx(top)


def test_score_maps_show_every_word_on_one_scale():
    words = ("cat's head", "cat's tail", "dog's head")
    figure = score_maps(image(), scores_with_attention()[0], words, "p").figure
    sigmoid = 1 / (1 + np.exp(-np.array([5.0, 3.0, 1.0])))
    expected = [f"{w} (peak {s:.2f})" for w, s in zip(("cat's tail", "dog's head", "cat's head"), sigmoid, strict=True)]
    assert titles(figure) == expected
    assert figure.axes[-1].get_ylim() == (0, 1)
    chosen = score_maps(image(), scores_with_attention()[0], words, "p", chosen=["dog's head"])
    assert titles(chosen.figure) == expected[1:2]


def test_probabilities_are_shown_as_they_are():
    scores = Scores(torch.full((1, 6, 8), 0.25), (0,), None, (30, 40), probabilities=True)
    panel = score_maps(image(), scores, ("a",), "p")
    assert panel.table["peak"].tolist() == [0.25]
    weights = torch.tensor([[1.0, 2.0]])
    masks = Scores(torch.full((2, 6, 8), 0.5), (0,), None, (30, 40), class_weights=weights, probabilities=True)
    panel = score_maps(image(), masks, ("a",), "p")  # masks may add up to more than 1
    assert panel.table["peak"].tolist() == [1.5]
    assert panel.figure.axes[-1].get_ylim() == (0, 1.5)


def test_data_behind_the_figures():
    panel = score_maps(image(), scores_with_attention()[0], ("a", "b", "c"), "p")
    assert panel.name == "scores_p"
    table = panel.table.set_index("word")
    assert table.loc["b", "peak"] == pytest.approx(1 / (1 + np.exp(-5.0)))
    assert table.loc["b", "share_above_half"] == pytest.approx(1 / 48)
    long = attention_table({"layer 0": np.arange(12).reshape(GRID), "layer 1": np.zeros(GRID)})
    assert len(long) == 24
    row = long[(long["map"] == "layer 0") & (long["row"] == 2) & (long["column"] == 1)]
    assert list(row["attention"]) == [9]

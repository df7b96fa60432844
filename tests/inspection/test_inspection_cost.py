import numpy as np
import pytest
import torch

from ovparts_lib.inspection import class_attention, cost_maps
from ovparts_lib.systems.scores import BACKGROUND, CostMaps, Scores

WORDS = ("dog's head", "dog's tail", "car's wheel")


@pytest.fixture
def cost():
    draw = torch.Generator().manual_seed(0)
    before = torch.rand(3, 4, 4, generator=draw) * 2 - 1
    after = torch.full((3, 8, 8), -3.0)
    after[2, 5, 1], after[0, 0, 0] = 4.0, 1.0
    attention = torch.tensor([[0.05, 0.5, 0.1, 0.2, 0.15], [0.0, 0.1, 0.6, 0.1, 0.2], [0.1, 0.0, 0.2, 0.7, 0.0]])
    return CostMaps(before, after, {0: attention / 2, 1: attention}, WORDS, ("cat's ear", *WORDS, BACKGROUND))


def scores_of(cost):
    return Scores(cost.after, (0, 1, 2), None, (40, 60), covered_size=(40.0, 80.0))


def attention_of(cost):
    return class_attention(cost, "p").table.set_index("attending")


def panels(figure):
    return {ax.get_title(): ax.images[0].get_array() for ax in figure.axes if ax.images}


def test_rows_are_the_best_words_first(cost):
    titles = list(panels(cost_maps(torch.zeros(3, 40, 60, dtype=torch.uint8), scores_of(cost), cost, "p").figure))
    assert [title for title in titles if title.startswith("“")] == ["“car's wheel”", "“dog's head”", "“dog's tail”"]


def test_what_lies_over_padding_is_cut_off(cost):
    # The maps span 80 columns of pixels, the picture has 60: its own extremes are those of the first three of four.
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    figure = cost_maps(image, scores_of(cost), cost, "p").figure
    own = cost.before[1, :, :3]
    assert f"cosine {own.min():.2f} to {own.max():.2f}" in panels(figure)


def test_the_last_layer_of_class_attention_is_shown(cost):
    table = attention_of(cost)
    assert list(table.index) == list(WORDS)
    assert list(table.columns) == [*WORDS, BACKGROUND, "cat's ear"]  # the others as they are attended to at most
    np.testing.assert_allclose(table.to_numpy(), cost.class_attention[1][:, [1, 2, 3, 4, 0]].numpy())
    assert class_attention(cost, "p").figure.axes[0].get_xlabel() == "attended to"


def test_the_table_holds_both_maps_whole(cost):
    table = cost_maps(torch.zeros(3, 40, 60, dtype=torch.uint8), scores_of(cost), cost, "p").table
    one = table[(table["word"] == "dog's tail") & (table["row"] == 2) & (table["column"] == 3)].set_index("map")
    assert one.loc["before", "value"] == pytest.approx(float(cost.before[1, 2, 3]))
    assert one.loc["after", "value"] == pytest.approx(1 / (1 + np.exp(3)))
    assert table.groupby("map").size().to_dict() == {"before": 3 * 16, "after": 3 * 64}


def test_a_first_stage_has_maps_of_its_own(cost):
    picture, draw = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.Generator().manual_seed(1)
    before, after = torch.rand(2, 4, 4, generator=draw), torch.zeros(2, 8, 8)
    attention, words = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]]), ("head (part)", "dog (object)")
    generic = CostMaps(before.bfloat16(), after, {1: attention}, words, (*words, BACKGROUND))
    titles = list(panels(cost_maps(picture, scores_of(cost), generic, "p", generic=True).figure))
    assert [title for title in titles if title.startswith("“")] == ["“head (part)”", "“dog (object)”"]
    table = attention_of(generic)
    assert table.loc["dog (object)", "head (part)"] == pytest.approx(0.3)
    shown = cost_maps(picture, scores_of(cost), generic, "p", generic=True)
    assert (shown.name, len(shown.table)) == ("cost_generic_p", 2 * (16 + 64))
    assert class_attention(generic, "p", generic=True).name == "class_attention_generic_p"


@pytest.mark.parametrize("size", [(300, 1), (1, 300)])
def test_the_figure_of_an_extreme_shape_stays_small(cost, size):
    scores = Scores(cost.after, (0, 1, 2), None, size)
    figure = cost_maps(torch.zeros(3, *size, dtype=torch.uint8), scores, cost, "p").figure
    assert max(figure.get_size_inches()) < 30

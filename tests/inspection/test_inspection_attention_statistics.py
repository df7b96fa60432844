import numpy as np
import pandas as pd
import pytest
import torch

from ovparts_lib.inspection import (
    attention_by_class,
    attention_changes,
    attention_comparison,
    attention_statistics,
)
from ovparts_lib.inspection.attention_measures import pooled_map
from tests.inspection.attending import GRID, TOKENS, WORDS, part_map, scores_of


def test_parts_that_look_at_themselves_do_not_overlap():
    table = attention_statistics(*scores_of([[(2, 0)], [(2, 3)], [(1, 7)]]), part_map(), WORDS)
    assert list(table["part"]) == ["dog's head", "dog's tail", "car's wheel"]
    assert list(table["patches"]) == [12, 12, 3]
    assert list(table["claimed"]) == [1, 1, 1]
    assert list(table["shared"]) == [0, 0, 0]
    assert list(table["on_part"]) == [1, 1, 1]
    assert list(table["object_overlap"]) == [0, 0, 0]
    peak = 1 / (1 + 2 * np.exp(-1)) ** 2  # what a 3 x 3 Gaussian leaves of a single patch; more at the reflected edge
    assert table["strength"][1] == pytest.approx(peak, rel=1e-5)


def test_parts_that_look_at_the_same_patch_overlap():
    table = attention_statistics(*scores_of([[(2, 2)], [(2, 2)], [(1, 7)]]), part_map(), WORDS)
    assert list(table["shared"]) == [1, 1, 0]
    assert list(table["on_part"]) == [0, 1, 1]
    assert list(table["object_overlap"]) == pytest.approx([1, 1, 0])
    # A lower threshold lets the patches beside it count as well, inside the dog only.
    wide = attention_statistics(*scores_of([[(2, 3)], [(2, 3)], [(1, 7)]]), part_map(), WORDS, threshold=0.1)
    assert list(wide["claimed"][:2]) == [4, 4]


def test_what_an_object_does_not_show_is_left_out():
    labels = part_map()
    labels[labels == 1] = 65535
    table = attention_statistics(*scores_of([[(2, 2)], [(2, 2)]], parts=(0, 1)), labels, WORDS)
    assert list(table["part"]) == ["dog's head"]
    assert table["claimed"][0] == 0  # it looks past what is left of the dog
    assert np.isnan(table["shared"][0])
    assert attention_statistics(*scores_of([[(2, 2)]], parts=(1,)), labels, WORDS).empty


def test_the_layer_is_the_last_unless_said():
    scores = scores_of([[(2, 0)], [(2, 3)], [(1, 7)]])
    assert list(attention_statistics(*scores, part_map(), WORDS, layer=0)["on_part"]) == [0, 0, 0]
    with pytest.raises(ValueError, match=r"decoder layer 1; there are \[0, 2\]"):
        attention_statistics(*scores, part_map(), WORDS, layer=1)


def test_pooled_maps_are_means_of_rows():
    weights = torch.rand(2, TOKENS, TOKENS).softmax(-1)
    asking = torch.zeros(GRID, dtype=torch.bool)
    asking[1, 2] = asking[4, 0] = True
    expected = weights[:, [1 + 10, 1 + 32], 1:].mean((0, 1)).view(GRID)
    torch.testing.assert_close(pooled_map(weights, asking), expected)


def test_images_are_averaged_by_class():
    tables = [
        attention_statistics(*scores_of([[(2, 2)], [(2, 2)], [(1, 7)]]), part_map(), WORDS),
        attention_statistics(*scores_of([[(2, 0)]], parts=(0,)), part_map(), WORDS),
        attention_statistics(*scores_of([[(2, 0)]], parts=(0,)), np.full((60, 80), 65535), WORDS),
    ]
    means = attention_by_class(tables).set_index("part")
    assert list(means["images"]) == [2, 1, 1]
    assert list(means["on_part"]) == [0.5, 1, 1]
    assert list(means["shared"]) == [0.5, 1, 0]
    assert list(means["object"]) == ["dog", "dog", "car"]
    assert attention_by_class(tables[2:]).empty


def test_the_comparison_draws_every_part_of_every_table():
    before = pd.DataFrame({"object": ["dog", "car"], "part": ["dog's head", "car's wheel"], "shared": [0.5, np.nan]})
    after = before.assign(shared=[0.2, 0.1], strength=[1e-3, 2e-3])
    tables = {"before": before.assign(strength=[5e-4, 1e-3]), "after": after}
    panel = attention_comparison(tables, "parts", "Parts", unseen=["car"])
    figure = panel.figure
    assert panel.table["group"].tolist() == ["seen", "unseen"] * 2
    shared, strong = figure.axes
    assert [label.get_text() for label in shared.get_yticklabels()] == ["dog's head", "car's wheel *"]
    assert [points.get_offsets()[0, 0] for points in shared.collections] == [0.5, 0.2]
    assert [points.get_offsets()[1, 0] for points in strong.collections] == [1e-3, 2e-3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]


def test_changes_stand_beside_what_was_and_what_is():
    measures = ["object_overlap", "shared", "strength", "on_part"]
    before = pd.DataFrame(
        {"object": "dog", "part": ["dog's head", "dog's tail"], "images": [3, 2]}
        | dict(zip(measures, ([0.5, 0.5], [0.25, np.nan], [0.1, 0.2], [0.3, 0.4]), strict=True))
    )
    after = pd.DataFrame(
        {"object": ["dog", "car"], "part": ["dog's head", "car's wheel"], "images": [3, 1]}
        | dict(zip(measures, ([0.25, 0.0], [0.75, 0.5], [0.4, 0.8], [0.1, 0.2]), strict=True))
    )
    table = attention_changes(before, after).set_index("part")
    assert list(table.index) == ["dog's head", "dog's tail", "car's wheel"]
    assert list(table.columns[:5]) == [
        "object",
        "images",
        "object_overlap_before",
        "object_overlap_after",
        "object_overlap_difference",
    ]
    head = table.loc["dog's head"]
    assert head["object_overlap_difference"] == -0.25
    assert head["shared_difference"] == 0.5
    assert (head["strength_before"], head["strength_after"]) == (0.1, 0.4)
    assert head["strength_difference"] == pytest.approx(0.3)
    assert head["on_part_difference"] == pytest.approx(-0.2)
    # A part that was measured once is listed, with no difference.
    assert dict(table["images"]) == {"dog's head": 3, "dog's tail": 2, "car's wheel": 1}
    assert table.loc["dog's tail", "strength_before"] == 0.2
    assert table.loc[["dog's tail", "car's wheel"], "strength_difference"].isna().all()

import numpy as np
import pandas as pd
import pytest
import torch

from ovparts_lib.inspection import (
    composition,
    part_attention,
    part_attention_table,
    save_figure,
)
from ovparts_lib.systems.scores import Scores
from tests.inspection.attending import WORDS, looking_at, part_map, scores_of

IMAGE = np.full((60, 80, 3), 100, np.uint8)
NAMES = (("part", "head"), ("part", "tail"), ("object", "dog"))


def drawn(tables):
    return part_attention(IMAGE, tables, "maps", "Maps").figure


def of_dog(head=((2, 0),), tail=((2, 3),)):
    components = {name: {2: looking_at([(0, column)])} for column, name in enumerate(NAMES)}
    return scores_of([head, tail], (0, 1), components)


def test_the_table_holds_every_map_patch_by_patch():
    table = part_attention_table(*of_dog([(2, 0), (5, 7)]), part_map(), WORDS)
    assert list(table.columns) == ["part", "query", "row", "column", "asking", "attention"]
    assert len(table) == 2 * 3 * 6 * 8
    first = table[(table["part"] == "dog's head") & (table["query"] == "both queries")]
    seen = first[first["attention"] > 0]
    assert list(zip(seen["row"], seen["column"], seen["attention"], strict=True)) == [(2, 0, 0.5), (5, 7, 0.5)]
    asking = first[first["asking"]]
    assert sorted(set(asking["column"])) == [0, 1]
    assert len(asking) == 12
    place = table[table["attention"] == 1].set_index(["part", "query"])["column"]
    assert dict(place) == {
        ("dog's head", "part query “head”"): 0,
        ("dog's head", "object query “dog”"): 2,
        ("dog's tail", "both queries"): 3,
        ("dog's tail", "part query “tail”"): 1,
        ("dog's tail", "object query “dog”"): 2,
    }


def test_the_layer_is_the_last_unless_said():
    scores = scores_of([[(2, 0)], [(2, 3)], [(1, 7)]])
    last, first = (part_attention_table(*scores, part_map(), WORDS, layer=layer) for layer in (None, 0))
    assert list(last[last["attention"] > 0]["column"]) == [0, 3, 7]
    assert list(first[first["attention"] > 0]["column"]) == [7, 7, 7]
    with pytest.raises(ValueError, match=r"decoder layer 1; there are \[0, 2\]"):
        part_attention_table(*scores, part_map(), WORDS, layer=1)


def test_each_part_is_shown_with_its_two_queries():
    figure = drawn({"after": part_attention_table(*of_dog(), part_map(), WORDS)})
    assert [ax.get_title().replace("\n", " ") for ax in figure.axes] == [
        "asking: dog's head",
        "both queries peak 1",
        "part query “head” peak 1",
        "object query “dog” peak 1",
        "asking: dog's tail",
        "both queries peak 1",
        "part query “tail” peak 1",
        "object query “dog” peak 1",
    ]
    # a system with a query per part
    alone = drawn({"after": part_attention_table(*scores_of([[(2, 0)]], (0,)), part_map(), WORDS)})
    assert [ax.get_title() for ax in alone.axes] == ["asking:\ndog's head", "query “dog head”\npeak 1"]


def test_two_moments_stand_side_by_side():
    before = part_attention_table(*of_dog([(2, 0), (5, 7), (0, 0), (0, 1)]), part_map(), WORDS)
    after = part_attention_table(*of_dog(), part_map(), WORDS)
    figure = drawn({"before": before, "after": after})
    assert [ax.get_title() for ax in figure.axes[:7]] == [
        "asking:\ndog's head",
        "both queries\nbefore: peak 0.25",
        "both queries\nafter: peak 1",
        "part query “head”\nbefore: peak 1",
        "part query “head”\nafter: peak 1",
        "object query “dog”\nbefore: peak 1",
        "object query “dog”\nafter: peak 1",
    ]
    pictures = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert (pictures[1] != pictures[2]).any()  # it looks elsewhere
    assert (pictures[3] == pictures[4]).all()
    assert (pictures[0] != pictures[7]).any()  # other patches ask


def test_a_figure_and_the_csv_beside_it_say_the_same(tmp_path):
    table = part_attention_table(*of_dog(), part_map(), WORDS)
    panel = part_attention(IMAGE, {"after": table}, "maps", "Maps")
    save_figure(panel.figure, tmp_path / "maps.png", panel.table)
    read = pd.read_csv(tmp_path / "maps.csv")
    pd.testing.assert_frame_equal(read, table.assign(stage="after"), check_dtype=False)
    again = drawn({"after": read.drop(columns="stage")})
    for ours, theirs in zip(panel.figure.axes, again.axes, strict=True):
        assert (np.asarray(ours.images[0].get_array()) == np.asarray(theirs.images[0].get_array())).all()


def test_parts_too_small_for_a_patch_are_not_shown():
    empty = part_attention_table(*of_dog(), np.full((60, 80), 65535), WORDS)
    assert empty.empty
    assert list(empty.columns) == ["part", "query", "row", "column", "asking", "attention"]
    for tables in ({}, {"after": empty}):
        panel = part_attention(IMAGE, tables, "maps", "Maps")
        assert panel.figure is None and panel.caption == "no part as large as a patch"


# --- what a part is composed of ---------------------------------------------------------------------------------------


def flat(probability):
    return torch.full((12, 16), float(torch.tensor(probability).logit()))


def composed(parts=(1, 2)):
    """The generic parts are head, tail, wheel; objects dog, car. The dog's tail is found in the left half."""
    tail = flat(0.1)
    tail[:, :8] = flat(0.9)[:, :8]
    size = (60, 80)
    objects = Scores(torch.stack([flat(0.6), flat(0.8)]), (1, 0), flat(0.1), size)
    logits = torch.stack([{0: flat(0.5), 1: tail, 2: flat(0.3)}[part] for part in parts])
    scores = Scores(logits, tuple(parts), flat(0.5), size, objects=objects)
    return scores, Scores(torch.stack([flat(0.2), flat(0.5)]), (2, 1), None, size)


def test_a_part_is_compared_with_the_product_of_its_queries():
    table = composition(IMAGE, *composed(), part_map(), WORDS, "p").table
    tail, wheel = table[:4].set_index("map"), table[4:].set_index("map")
    assert set(table["part"][:4]) == {"dog's tail"}
    assert set(table["part"][4:]) == {"car's wheel"}
    assert dict(tail["peak"].round(6)) == {
        "object “dog”": 0.8,
        "generic part “tail”": 0.5,
        "their product": 0.4,
        "“dog's tail”": 0.9,
    }
    assert list(wheel["mean"].round(6)) == [0.6, 0.2, 0.12, 0.3]
    # The tail is labelled in the second quarter: all of it is in the left half, as is a third of what is outside.
    assert tail.loc["“dog's tail”", "inside"] == pytest.approx(0.9)
    assert tail.loc["“dog's tail”", "outside"] == pytest.approx((0.9 + 2 * 0.1) / 3)
    assert tail.loc["“dog's tail”", "share_above_half"] == 0.5
    missing = composition(IMAGE, *composed(), np.full((60, 80), 65535), WORDS, "p").table
    assert missing["inside"].isna().all()
    assert missing["outside"].equals(missing["mean"])


def test_the_four_maps_of_a_part_are_drawn():
    figure = composition(IMAGE, *composed(), part_map(), WORDS, "p").figure
    assert [ax.get_title() for ax in figure.axes[:4]] == [
        "object “dog”\npeak 0.80",
        "generic part “tail”\npeak 0.50",
        "their product\npeak 0.40",
        "“dog's tail”\npeak 0.90",
    ]
    assert len(figure.axes) == 8
    pair = np.asarray(figure.axes[3].images[0].get_array()).astype(float)
    assert pair[:, :30].mean() > 1.5 * pair[:, 50:].mean()


def test_scores_without_objects_are_refused():
    scores, generic_parts = composed()
    scores.objects = None
    with pytest.raises(ValueError, match="the scores hold no objects; inspect with the background"):
        composition(IMAGE, scores, generic_parts, part_map(), WORDS, "p")

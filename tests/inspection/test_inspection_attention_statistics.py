import numpy as np
import pandas as pd
import pytest
import torch

from ovparts_lib.inspection import (
    attention_by_class,
    attention_comparison,
    attention_statistics,
    part_attention,
)
from ovparts_lib.inspection.attention_statistics import pooled_map
from ovparts_lib.models.scores import AttentionMaps, PartScores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

GRID, TOKENS = (6, 8), 49
WORDS = Vocabulary.from_words({"dog": ["head", "tail"], "car": ["wheel"]})


def looking_at(places):
    """Attention (2 heads, t, t): every token looks at some patches only, at each of them alike."""
    weights = torch.zeros(2, TOKENS, TOKENS)
    for row, column in places:
        weights[:, :, 1 + row * GRID[1] + column] = 1 / len(places)
    return weights


def scores_of(maps, parts=(0, 1, 2), components=None):
    attention = AttentionMaps(
        GRID,
        {0: torch.stack([looking_at([(5, 7)])] * len(maps)), 2: torch.stack([looking_at(places) for places in maps])},
        {},
        tuple(WORDS.prompts[part] for part in parts),
        components or {},
    )
    return PartScores(torch.zeros(len(parts), 12, 16), tuple(parts), None, (60, 80), attention)


def part_map():
    """The dog's head fills the left quarter, its tail the next; the car is at the right edge."""
    labels = np.full((60, 80), 65535)
    labels[:, :20], labels[:, 20:40], labels[:30, 70:] = 0, 1, 2
    return labels


def test_parts_that_look_at_themselves_do_not_overlap():
    table = attention_statistics(scores_of([[(2, 0)], [(2, 3)], [(1, 7)]]), part_map(), WORDS)
    assert list(table["part"]) == ["dog's head", "dog's tail", "car's wheel"]
    assert list(table["patches"]) == [12, 12, 3]
    assert list(table["claimed"]) == [1, 1, 1]
    assert list(table["shared"]) == [0, 0, 0]
    assert list(table["on_part"]) == [1, 1, 1]
    assert list(table["object_overlap"]) == [0, 0, 0]
    peak = 1 / (1 + 2 * np.exp(-1)) ** 2  # what a 3 x 3 Gaussian leaves of a single patch; more at the reflected edge
    assert table["strength"][1] == pytest.approx(peak, rel=1e-5)


def test_parts_that_look_at_the_same_patch_overlap():
    table = attention_statistics(scores_of([[(2, 2)], [(2, 2)], [(1, 7)]]), part_map(), WORDS)
    assert list(table["shared"]) == [1, 1, 0]
    assert list(table["on_part"]) == [0, 1, 1]
    assert list(table["object_overlap"]) == pytest.approx([1, 1, 0])
    # A lower threshold lets the patches beside it count as well, inside the dog only.
    wide = attention_statistics(scores_of([[(2, 3)], [(2, 3)], [(1, 7)]]), part_map(), WORDS, threshold=0.1)
    assert list(wide["claimed"][:2]) == [4, 4]


def test_what_an_object_does_not_show_is_left_out():
    labels = part_map()
    labels[labels == 1] = 65535
    table = attention_statistics(scores_of([[(2, 2)], [(2, 2)]], parts=(0, 1)), labels, WORDS)
    assert list(table["part"]) == ["dog's head"]
    assert table["claimed"][0] == 0  # it looks past what is left of the dog
    assert np.isnan(table["shared"][0])
    assert attention_statistics(scores_of([[(2, 2)]], parts=(1,)), labels, WORDS).empty


def test_the_layer_is_the_last_unless_said():
    scores = scores_of([[(2, 0)], [(2, 3)], [(1, 7)]])
    assert list(attention_statistics(scores, part_map(), WORDS, layer=0)["on_part"]) == [0, 0, 0]
    with pytest.raises(ValueError, match=r"decoder layer 1; there are \[0, 2\]"):
        attention_statistics(scores, part_map(), WORDS, layer=1)
    scores.attention = None
    with pytest.raises(ValueError, match="predict with keep_attention=True"):
        attention_statistics(scores, part_map(), WORDS)


def test_pooled_maps_are_means_of_rows():
    weights = torch.rand(2, TOKENS, TOKENS).softmax(-1)
    asking = torch.zeros(GRID, dtype=torch.bool)
    asking[1, 2] = asking[4, 0] = True
    expected = weights[:, [1 + 10, 1 + 32], 1:].mean((0, 1)).view(GRID)
    torch.testing.assert_close(pooled_map(weights, asking), expected)


def test_images_are_averaged_by_class():
    tables = [
        attention_statistics(scores_of([[(2, 2)], [(2, 2)], [(1, 7)]]), part_map(), WORDS),
        attention_statistics(scores_of([[(2, 0)]], parts=(0,)), part_map(), WORDS),
        attention_statistics(scores_of([[(2, 0)]], parts=(0,)), np.full((60, 80), 65535), WORDS),
    ]
    means = attention_by_class(tables).set_index("part")
    assert list(means["images"]) == [2, 1, 1]
    assert list(means["on_part"]) == [0.5, 1, 1]
    assert list(means["shared"]) == [0.5, 1, 0]
    assert list(means["object"]) == ["dog", "dog", "car"]
    with pytest.raises(ValueError, match="no image shows a part"):
        attention_by_class(tables[2:])


def test_the_comparison_draws_every_part_of_every_table():
    before = pd.DataFrame({"object": ["dog", "car"], "part": ["dog's head", "car's wheel"], "shared": [0.5, np.nan]})
    after = before.assign(shared=[0.2, 0.1], strength=[1e-3, 2e-3])
    tables = {"before": before.assign(strength=[5e-4, 1e-3]), "after": after}
    figure = attention_comparison(tables, unseen=["car"])
    shared, strong = figure.axes
    assert [label.get_text() for label in shared.get_yticklabels()] == ["dog's head", "car's wheel *"]
    assert [points.get_offsets()[0, 0] for points in shared.collections] == [0.5, 0.2]
    assert [points.get_offsets()[1, 0] for points in strong.collections] == [1e-3, 2e-3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]
    with pytest.raises(ValueError, match="one measure of strength, shared, on_part are needed"):
        attention_comparison(tables, measures=["iou"])


def test_each_part_is_shown_with_its_two_queries():
    image = np.full((60, 80, 3), 100, np.uint8)
    maps = [[(2, 0)], [(2, 3)]]
    names = (("part", "head"), ("part", "tail"), ("object", "dog"))
    components = {name: {2: looking_at([(0, 0)])} for name in names}
    figure = part_attention(image, scores_of(maps, (0, 1), components), part_map(), WORDS)
    assert [ax.get_title() for ax in figure.axes] == [
        "asking: dog's head",
        "both queries (peak 1)",
        "part query “head” (peak 1)",
        "object query “dog” (peak 1)",
        "asking: dog's tail",
        "both queries (peak 1)",
        "part query “tail” (peak 1)",
        "object query “dog” (peak 1)",
    ]
    alone = part_attention(image, scores_of(maps, (0, 1)), part_map(), WORDS)  # a system with a query per part
    assert [ax.get_title() for ax in alone.axes][:2] == ["asking: dog's head", "query “dog head” (peak 1)"]
    with pytest.raises(ValueError, match="none of the parts that were scored"):
        part_attention(image, scores_of(maps, (0, 1)), np.full((60, 80), 65535), WORDS)

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.evaluation.tables import class_table
from ovparts_lib.inspection import frequency_bars, iou_bars, iou_heatmap, part_confusion, run_bars, training_curve
from ovparts_lib.inspection.charts import iou_grid, part_confusion_table
from ovparts_lib.inspection.palette import SEEN, UNSEEN
from ovparts_lib.vocabularies import Vocabulary, load_vocabulary


def evaluation_of(name="pascal_part_116", missing=()):
    """Random counts in which every part is labelled but the missing ones."""
    vocabulary, draw = load_vocabulary(name), np.random.default_rng(0)
    count = len(vocabulary.parts)
    counts = draw.integers(0, 3, (count + 1, count + 1))
    counts[np.arange(count), np.arange(count)] += draw.integers(50, 500, count)
    counts[:, list(missing)] = 0
    return Evaluation({"pred_all": ImageCounts.of_matrix(counts)}, ("a",), 10, 0, 10, vocabulary)


@pytest.fixture(scope="module")
def evaluation():
    return evaluation_of(missing=[0, 1])


@pytest.fixture(scope="module")
def table(evaluation):
    return class_table(evaluation, "recommended", "pred_all")


def bars_of(figure):
    return [bar for ax in figure.axes for bar in ax.patches]


def test_a_bar_per_class_with_unseen_ones_marked_twice(table):
    figure = iou_bars(table).figure
    bars = bars_of(figure)
    assert len(bars) == 114
    assert sorted(bar.get_width() for bar in bars) == pytest.approx(sorted(table["IoU"].dropna()))
    hatched = [bar for bar in bars if bar.get_hatch()]
    assert len(hatched) == (~table["seen"]).sum() == 42
    assert {to_hex(bar.get_facecolor()).upper() for bar in hatched} == {UNSEEN}
    assert {to_hex(bar.get_facecolor()).upper() for bar in bars if not bar.get_hatch()} == {SEEN}
    assert figure.get_suptitle() == "IoU per class, pred_all, recommended; not shown: 2 without labels"


def test_bars_are_labelled_with_their_own_part(table):
    expected = {(row["object"], row["generic"]): row["IoU"] for _, row in table.dropna(subset="IoU").iterrows()}
    found = {}
    for ax in iou_bars(table).figure.axes:
        headings = sorted(
            (text.get_position()[1], text.get_text()) for text in ax.texts if text.get_fontweight() == "bold"
        )
        for bar, label in zip(ax.patches, ax.get_yticklabels(), strict=True):
            middle = bar.get_y() + bar.get_height() / 2
            owner = [name for place, name in headings if place < middle][-1]
            found[owner, label.get_text()] = bar.get_width()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", ["pascal_part_116", "ade20k_part_234"])
def test_labels_of_many_classes_neither_overlap_nor_shrink(name):
    figure = iou_bars(class_table(evaluation_of(name), "recommended", "pred_all")).figure
    figure.canvas.draw()
    assert figure.get_size_inches()[0] <= 12
    for ax in figure.axes:
        labels = sorted(ax.get_yticklabels(), key=lambda label: label.get_window_extent().y0)
        assert min(label.get_fontsize() for label in labels) >= 7
        for lower, upper in itertools.pairwise(labels):
            assert lower.get_window_extent().y1 <= upper.get_window_extent().y0 + 1
    for left, right in itertools.pairwise(figure.axes):
        assert (
            left.get_window_extent().x1 <= min(label.get_window_extent().x0 for label in right.get_yticklabels()) + 30
        )


def test_a_table_without_any_value_still_gives_a_figure(table):
    assert bars_of(iou_bars(table.assign(IoU=np.nan)).figure) == []


def test_heat_map_cells_are_the_table_and_empty_where_there_is_no_part(table):
    grid = iou_grid(table)
    assert list(grid.index)[-5:] == ["bird", "car", "dog", "motorbike", "sheep"]
    for _, row in table.dropna(subset="IoU").iterrows():
        assert grid.loc[row["object"], row["generic"]] == row["IoU"]
    assert int(grid.notna().sum().sum()) == 114
    ax = iou_heatmap(table).figure.axes[0]
    drawn = ax.collections[0].get_array()
    np.testing.assert_allclose(np.ma.filled(drawn.astype(float), np.nan), grid.T.to_numpy())
    assert len([text for text in ax.texts if text.get_text()]) == 114
    marked = [label.get_text() for label in ax.get_xticklabels() if label.get_text().endswith("*")]
    assert marked == ["bird *", "car *", "dog *", "motorbike *", "sheep *"]


def test_few_generic_parts_go_across(table):
    ax = iou_heatmap(table[table["object"].isin(["cat", "dog"])]).figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog *"]


def test_confusion_rows_are_shares_of_the_parts_pixels(evaluation):
    shares = part_confusion_table(evaluation, "dog", "pred_all")
    counts, vocabulary = evaluation.matrices["pred_all"], evaluation.vocabulary
    own = list(vocabulary.parts_of(vocabulary.object_id("dog")))
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    head, ear = vocabulary.part_id("dog's head"), vocabulary.part_id("dog's ear")
    assert shares.loc["head", "ear"] == pytest.approx(100 * counts[ear, head] / counts[:, head].sum())
    others = sum(counts[p, head] for p in range(116) if p not in own)
    assert shares.loc["head", "other objects"] == pytest.approx(100 * others / counts[:, head].sum())
    assert shares.loc["head", "background"] == pytest.approx(100 * counts[116, head] / counts[:, head].sum())


def test_confusion_leaves_out_parts_without_labels(evaluation):
    assert list(part_confusion_table(evaluation, "aeroplane", "pred_all").index) == ["wing", "tail", "engine", "wheel"]


def test_confusion_panels_are_objects_with_parts_to_confuse(evaluation):
    titles = [ax.get_title() for ax in part_confusion(evaluation, "pred_all").figure.axes if ax.get_title()]
    assert "tvmonitor" not in titles  # it has one part
    assert len(titles) == 15
    assert "dog *" in titles
    nothing = part_confusion(evaluation_of(missing=range(116)), "pred_all")
    assert nothing.figure is None and nothing.caption == "no object has two labelled parts"


def history(steps=200):
    step = np.arange(1, steps + 1)
    scored = np.where(step % 100 == 0, 40.0, np.nan)
    return pd.DataFrame(
        {"step": step, "loss": 1 / step, "learning_rate": 1e-4, "evaluation/seen": scored, "evaluation/unseen": np.nan}
    )


def test_training_curve_draws_what_the_history_has():
    figure = training_curve(history()).figure
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "evaluation (%)", "learning rate"]
    loss, marks, _ = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), 1 / np.arange(1, 201))
    assert loss.get_yscale() == "log"
    assert [line.get_label() for line in marks.lines] == ["seen"]
    np.testing.assert_array_equal(marks.lines[0].get_xdata(), [100, 200])
    short = training_curve(history(3)[["step", "loss"]]).figure
    assert [ax.get_ylabel() for ax in short.axes] == ["loss"]
    nothing = training_curve(pd.DataFrame())
    assert nothing.figure is None and nothing.caption == "nothing was trained"


def test_run_bars_have_a_panel_per_mode_and_say_where_nothing_was_averaged():
    rows = pd.DataFrame(
        {
            "label": ["before", "after"] * 2,
            "mode": ["oracle_obj"] * 2 + ["pred_all"] * 2,
            "seen": [1.0, 2.0, 3.0, 4.0],
            "unseen": [5.0, np.nan, 7.0, 8.0],
            "harmonic": [9.0, np.nan, 11.0, 12.0],
        }
    )
    panel = run_bars(rows, "runs", "Runs", "Means.")
    assert (panel.name, panel.title, panel.caption) == ("runs", "Runs", "Means.")
    figure = panel.figure
    assert [ax.get_title() for ax in figure.axes] == ["oracle_obj", "pred_all"]
    widths = [[bar.get_width() for bar in container] for container in figure.axes[0].containers]
    np.testing.assert_array_equal(widths, [[1, 2], [5, 0], [9, 0]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.0", "2.0", "5.0", "undefined", "9.0", "undefined"]
    objects = rows.assign(seen=np.nan, unseen=np.nan, harmonic=np.nan, mIoU=[1.0, 2.0, 3.0, 4.0])
    drawn = run_bars(objects, "runs", "Runs", "Means.").figure
    assert [[bar.get_width() for bar in container] for container in drawn.axes[1].containers] == [[3, 4]]


def test_frequencies_leave_out_parts_that_never_occur(evaluation):
    vocabulary = evaluation.vocabulary
    frequencies = pd.DataFrame(
        {
            "part": vocabulary.parts,
            "seen": [vocabulary.is_seen(i) for i in range(116)],
            "pixels": 1,
            "images": np.arange(116),
        }
    )
    panel = frequency_bars(frequencies, vocabulary, "val")
    figure = panel.figure
    assert (panel.name, len(panel.table)) == ("class_frequencies_val", 115)
    assert sorted(bar.get_width() for bar in bars_of(figure)) == list(range(1, 116))
    assert figure.get_suptitle() == "Images per part; not shown: 1 that never occur"


def test_captions_say_what_is_drawn_and_no_more(table):
    hatched = "Parts are grouped by object; hatched classes are unseen. Protocol recommended."
    assert iou_bars(table).caption == hatched
    assert iou_bars(table[table["seen"]]).caption == "Parts are grouped by object. Protocol recommended."
    names = [f"class {i}" for i in range(3)]
    rows = {"object": names, "part": names, "generic": names, "seen": True, "IoU": 1.0, "mode": "pred_all"}
    objects = pd.DataFrame(rows | {"protocol": "ovseg"})
    panel = iou_bars(objects)
    assert panel.caption == "Classes. Protocol ovseg."
    assert [text.get_text() for text in panel.figure.axes[0].texts if text.get_fontweight() == "bold"] == ["classes"]
    vocabulary = Vocabulary("own", tuple(names))
    counted = pd.DataFrame({"class": names, "seen": True, "pixels": 1, "images": [1, 2, 3]})
    assert frequency_bars(counted, vocabulary, "val").caption == "Images in which each class is labelled."
    unseen = frequency_bars(counted.assign(seen=[True, False, True]), vocabulary, "val").caption
    assert unseen == "Images in which each class is labelled; unseen ones are hatched."

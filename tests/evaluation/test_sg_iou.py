"""SG-IoU against the reference's figures, and against its formula on small matrices."""

import functools
import json
import operator
from pathlib import Path

import numpy as np
import pytest

from ovparts_lib.evaluation.bootstrap import bootstrap
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.protocols import UnsupportedModeError, protocol_named, score_all
from ovparts_lib.evaluation.sg_iou import load_fathers
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.vocabularies import Vocabulary, load_vocabulary
from ovparts_lib.workbook.protocols import semantics_guided
from tests.evaluation.recorded import read_matrix

GOLDEN = Path(__file__).parents[1] / "golden" / "scan"
RECORDED, FIGURES = ("mIoU", "fwIoU", "mACC", "pACC"), ("mIoU", "fwIoU", "recall", "pixel_accuracy")


def recorded_counts(count, seed, density, fathers):
    generator = np.random.Generator(np.random.PCG64(seed))
    counts = np.zeros((count + 1, count + 1), np.int64)
    counts[:count] = (generator.random((count, count + 1)) < density) * generator.integers(1, 200, (count, count + 1))
    counts[range(count), range(count)] += generator.integers(0, 3000, count)
    for child, father in fathers:
        counts[father, child] += 1000
    counts[:, 0:count:7] = 0
    counts[0:count:11, :] = 0
    return counts


@pytest.mark.parametrize(("name", "count", "seed", "density"), [("ade150", 150, 22, 0.1), ("ade847", 847, 21, 0.02)])
def test_both_metrics_of_a_recorded_matrix(name, count, seed, density):
    golden = np.load(GOLDEN / f"golden_sgiou_{name}.npz")
    facts = json.loads((GOLDEN / f"golden_sgiou_{name}.json").read_text(encoding="utf-8"))
    assert facts["order"].startswith(", ".join(RECORDED))
    vocabulary = load_vocabulary({"ade150": "ade20k_150", "ade847": "ade20k_847"}[name])
    counts = recorded_counts(count, seed, density, load_fathers(vocabulary.name))
    np.testing.assert_array_equal(counts.sum(1), golden["conf_rowsum"])
    np.testing.assert_array_equal(counts.sum(0), golden["conf_colsum"])
    for protocol, recorded in (("ovseg", "vanilla"), ("sg_iou", "sg")):
        found = read_matrix(protocol_named(protocol), counts, vocabulary, "pred_all")
        np.testing.assert_allclose([found.summary[figure] for figure in FIGURES], golden[f"summary_{recorded}"])
        np.testing.assert_allclose(found.classes["IoU"], golden[f"iou_{recorded}"], rtol=1e-6)


def test_every_table_names_classes_of_its_list():
    for name, children in (("ade20k_150", 33), ("ade20k_847", 306), ("pascal_context_459", 122)):
        fathers, count = load_fathers(name), len(load_vocabulary(name).classes)
        assert len({child for child, _ in fathers}) == children
        assert all(0 <= child < count and 0 <= father < count and child != father for child, father in fathers)


@pytest.fixture
def furniture(monkeypatch):
    """Three classes; chairs are a kind of seat."""
    fathers = {"furniture": ((1, 0),)}
    for module in ("evaluation.protocols", "workbook.protocols"):
        monkeypatch.setattr(f"ovparts_lib.{module}.load_fathers", lambda name: fathers.get(name, ()))
    return Vocabulary("furniture", ("seat", "chair", "sky"))


def evaluation_of(vocabulary, *images):
    """Counts of images, int64 (3, 3) each, rows predictions."""
    padded = [np.pad(np.array(image, np.int64), (0, 1)) for image in images]
    per_image = functools.reduce(operator.add, [ImageCounts.of_matrix(one) for one in padded])
    ids = tuple(map(str, range(len(images))))
    return Evaluation({"pred_all": per_image}, ids, len(images), 0, len(images), vocabulary, level="objects")


def test_pixels_predicted_as_the_father_count_by_its_precision(furniture):
    # 10 of the 40 pixels predicted "seat" are seats, 20 chairs, 10 skies
    evaluation = evaluation_of(furniture, [[4, 20, 10], [0, 0, 0], [0, 0, 0]], [[6, 0, 0], [0, 30, 0], [0, 0, 50]])
    vanilla, guided = score_all(evaluation, ["ovseg", "sg_iou"])
    credited = 30 + 30 / 40 * 20
    assert guided.classes["IoU"].tolist() == pytest.approx([25, 100 * credited / 50, 100 * 50 / 60])
    assert vanilla.classes["IoU"].tolist() == pytest.approx([25, 60, 100 * 50 / 60])
    assert guided.summary["recall"] == pytest.approx(100 * np.mean([1, credited / 50, 50 / 60]))
    assert guided.summary["pixel_accuracy"] == pytest.approx(100 * (10 + credited + 50) / 120)
    # both fathers' precision and the credit are those of the images drawn, not a mean over them
    intervals = bootstrap(evaluation, "sg_iou", "pred_all", samples=50).set_index("figure")
    assert intervals.loc["mIoU", "value"] == pytest.approx(guided.summary["mIoU"])
    twice = [[[8, 40, 20], [0, 0, 0], [0, 0, 0]], [[12, 0, 0], [0, 60, 0], [0, 0, 100]]]
    extremes = [
        read_matrix(protocol_named("sg_iou"), np.pad(np.array(image, np.int64), (0, 1)), furniture, "pred_all").summary[
            "mIoU"
        ]
        for image in twice
    ]
    assert min(extremes) - 1e-9 <= intervals.loc["mIoU", "low"] <= intervals.loc["mIoU", "high"] <= max(extremes) + 1e-9


def test_which_classes_gain_is_a_table(furniture):
    evaluation = evaluation_of(furniture, [[10, 20, 10], [0, 30, 0], [0, 0, 50]])
    figures, gains = semantics_guided(evaluation)
    assert figures.table["protocol"].tolist() == ["ovseg", "sg_iou"]
    assert gains.table["class"].tolist() == ["chair"] and gains.table["fathers"].tolist() == ["seat"]
    assert gains.table["gain"].tolist() == pytest.approx([30])


def test_a_list_without_fathers_has_no_sg_iou(furniture):
    evaluation = evaluation_of(Vocabulary("pascal_voc_20", furniture.classes), [[5, 1, 0], [2, 7, 0], [0, 0, 0]])
    assert [result.protocol for result in score_all(evaluation, ["ovseg", "sg_iou"])] == ["ovseg"]
    with pytest.raises(UnsupportedModeError, match="needs a table of fathers; the class list 'pascal_voc_20' has none"):
        protocol_named("sg_iou")(evaluation, "pred_all")
    (panel,) = semantics_guided(evaluation)
    assert "no class is listed" in panel.caption

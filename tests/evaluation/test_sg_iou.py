"""SG-IoU against the reference's figures, and against its formula on small matrices."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovparts_lib.evaluation.sg_iou import load_fathers, sg_iou

GOLDEN = Path(__file__).parents[1] / "golden" / "scan"
FIGURES = ("mIoU", "fwIoU", "mACC", "pACC")


def recorded_counts(count, seed, density, fathers):
    generator = np.random.Generator(np.random.PCG64(seed))
    counts = np.zeros((count + 1, count + 1), np.int64)
    counts[:count] = (generator.random((count, count + 1)) < density) * generator.integers(1, 200, (count, count + 1))
    counts[range(count), range(count)] += generator.integers(0, 3000, count)
    for child, names in fathers.items():
        for father in names:
            counts[father, child] += 1000
    counts[:, 0:count:7] = 0
    counts[0:count:11, :] = 0
    return counts


@pytest.mark.parametrize(("name", "count", "seed", "density"), [("ade150", 150, 22, 0.1), ("ade847", 847, 21, 0.02)])
def test_both_metrics_of_a_recorded_matrix(name, count, seed, density):
    golden = np.load(GOLDEN / f"golden_sgiou_{name}.npz")
    facts = json.loads((GOLDEN / f"golden_sgiou_{name}.json").read_text(encoding="utf-8"))
    assert facts["order"].startswith(", ".join(FIGURES))
    fathers = load_fathers({"ade150": "ade20k_150", "ade847": "ade20k_847"}[name])
    counts = recorded_counts(count, seed, density, fathers)
    np.testing.assert_array_equal(counts.sum(1), golden["conf_rowsum"])
    np.testing.assert_array_equal(counts.sum(0), golden["conf_colsum"])
    found = sg_iou(counts, [str(number) for number in range(count)], fathers)
    for ours, theirs in (("vanilla", "vanilla"), ("sg_iou", "sg")):
        np.testing.assert_allclose([found.summary[ours][figure] for figure in FIGURES], golden[f"summary_{theirs}"])
    np.testing.assert_allclose(found.classes["IoU"], golden["iou_vanilla"], rtol=1e-6)
    np.testing.assert_allclose(found.classes["SG_IoU"], golden["iou_sg"], rtol=1e-6)


def matrix(rows):
    counts = np.zeros((len(rows) + 1,) * 2, np.int64)
    counts[: len(rows), : len(rows)] = rows
    return counts


def test_pixels_predicted_as_the_father_count_by_its_precision():
    # 10 of the 40 pixels predicted "seat" are seats, 20 chairs, 10 skies
    counts = matrix([[10, 20, 10], [0, 30, 0], [0, 0, 50]])
    found = sg_iou(counts, ["seat", "chair", "sky"], {1: [0]})
    assert found.classes.loc["chair", "SG_IoU"] == pytest.approx(100 * (30 + 30 / 40 * 20) / 50)
    assert found.classes.loc["chair", "IoU"] == pytest.approx(60)
    assert found.classes.loc[["seat", "sky"], "gain"].tolist() == [0, 0]


def test_without_fathers_both_metrics_are_the_vanilla_one():
    assert load_fathers("voc_20") == {}
    counts = matrix([[5, 1], [2, 7]])
    summary = sg_iou(counts, ["a", "b"], {}).summary
    assert summary["sg_iou"] == summary["vanilla"]


def test_a_class_only_predicted_counts_zero_and_nothing_predicted_is_missed():
    counts = matrix([[4, 0], [4, 0]])
    counts[2, 0] = 8
    counts[0, 2] = 100  # unlabelled
    vanilla = sg_iou(counts, ["a", "b"], {}).summary["vanilla"]
    assert vanilla["mIoU"] == pytest.approx(100 * (4 / 16) / 2)
    assert vanilla["pACC"] == pytest.approx(25)


def test_no_labelled_pixel_gives_nan():
    found = sg_iou(matrix([[0, 0], [0, 0]]), ["a", "b"], {0: [1]})
    assert np.isnan(list(found.summary["sg_iou"].values())).all()


@pytest.mark.parametrize("fathers", [{0: [2]}, {5: [0]}, {0: [0]}])
def test_a_table_of_another_class_list_is_refused(fathers):
    with pytest.raises(ValueError, match="fathers of class"):
        sg_iou(matrix([[1, 0], [0, 1]]), ["a", "b"], fathers)


def test_a_matrix_without_the_row_of_nothing_is_refused():
    with pytest.raises(ValueError, match="must be int64 of shape"):
        sg_iou(np.zeros((2, 2), np.int64), ["a", "b"], {})

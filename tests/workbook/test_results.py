"""Published figures beside a run's: of its dataset, under one protocol at a time."""

from types import SimpleNamespace

import numpy as np
import pytest

from ovparts_lib.evaluation.stored import Evaluation, ImageCounts
from ovparts_lib.vocabularies import load_vocabulary
from ovparts_lib.workbook.results import Stored, beside_published


def stored(setting, dataset, test_dataset=None):
    vocabulary = load_vocabulary(test_dataset or dataset)
    count = len(vocabulary.classes)
    matrix = np.zeros((count + 1, count + 1), np.int64)
    matrix[0, 0], matrix[1, 0], matrix[1, 1] = 2, 2, 4  # IoU 2/4 and 4/6, of two classes that occur
    mode, level = ("oracle_obj", "parts") if test_dataset is None else ("pred_all", "objects")
    evaluation = Evaluation({mode: ImageCounts.of_matrix(matrix)}, ("a",), 1, 0, 1, vocabulary, level)
    params = {"setting": setting, "dataset": dataset, "test_dataset": test_dataset}
    return Stored(SimpleNamespace(params=params, notebook="25_ovseg", run="mine"), "after", evaluation)


def test_figures_of_whole_objects_stand_beside_runs_of_their_dataset_alone():
    runs = {
        "parts": stored("zero_shot", "pascal_part_116"),
        "objects": stored("object_level", "coco_stuff_171", "pascal_context_59"),
    }
    tables = {panel.name.removeprefix("published_"): panel.table for panel in beside_published(runs)}
    objects = tables["ovseg"]
    assert set(objects["dataset"]) == {"pascal_context_59"}
    ours = objects[objects["source"] == "this workbook"]
    assert ours["mIoU"].tolist() == pytest.approx([100 * (2 / 4 + 4 / 6) / 2])
    published = objects[(objects["system"] == "OVSeg") & (objects["detail"] == "R-101c COCO-Stuff-171")]
    assert published["mIoU"].tolist() == [53.3]  # OVSeg's table 1
    assert set(tables["ov_parts"]["dataset"]) == {"pascal_part_116"}


def test_a_miniature_run_has_no_published_counterpart():
    (panel,) = beside_published({"run": stored("miniature", "coco_stuff_171", "pascal_context_59")})
    assert panel.table.empty and panel.caption.startswith("none for")

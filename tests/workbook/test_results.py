"""Published figures beside a run's: of its dataset, under one protocol at a time."""

from types import SimpleNamespace

import numpy as np
import pytest

from ovparts_lib.evaluation.stored import Evaluation, ImageCounts
from ovparts_lib.vocabularies import load_vocabulary
from ovparts_lib.workbook.results import Stored, beside_published, compare_runs, paired_differences


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


def test_a_protocol_compares_what_it_reads_and_names_what_it_does_not():
    parts, objects = stored("any", "pascal_part_116"), stored("any", "coco_stuff_171", "pascal_context_59")
    for each in (parts, objects):
        each.run.setting, each.run.provenance = "any", {}
    runs = {"any/parts/after": parts, "any/objects/after": objects, "any/more/after": objects}
    shown, _, left_out = compare_runs(runs, "recommended_objects")
    assert shown.table["mode"].tolist() == ["pred_all"] * 2 and left_out.caption == "any/parts/after"
    (nothing,) = compare_runs(runs, "sg_iou")
    assert nothing.caption == "it reads none of what has been scored"
    (nothing,) = compare_runs({}, "recommended")
    assert nothing.caption == "nothing has been scored yet"
    # The first run is none of whole objects, so that it cannot be what the others are compared with.
    differences = paired_differences(runs, "recommended_objects", None, samples=2, seed=0).table
    assert set(differences["against"]) == {"any/objects/after"} and (differences["difference"].dropna() == 0).all()
    with pytest.raises(ValueError, match="'any/parts/after' is none of those that the protocol recommended_o"):
        paired_differences(runs, "recommended_objects", "any/parts/after", samples=2, seed=0)

"""Recorded runs of the released evaluators: label maps in, confusion matrices and metrics out."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ovparts_lib.data import resize_labels
from ovparts_lib.evaluation import PROTOCOLS, ConfusionMatrix, ov_parts, recommended, to_target
from ovparts_lib.vocabularies import Vocabulary, load_vocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluation"
CASES = sorted(path.stem for path in GOLDEN.glob("golden_*.json"))


def load_case(name):
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    toy = facts.get("toy12")
    vocabulary = load_vocabulary("pascal_part_116")
    if toy:
        # A part is seen iff its object is, so the base set of a case follows from its parts.
        base = {toy["parts"][i].split("'s")[0] for i in facts["base_part_ids"]}
        unseen = frozenset(set(toy["objects"]) - base)
        vocabulary = Vocabulary("toy12", toy["parts"], toy["objects"], unseen, toy["ignore_label"])
    assert list(vocabulary.seen_part_ids) == facts["base_part_ids"]
    return facts, arrays, vocabulary


def accumulate(arrays, vocabulary, kind, samples):
    """A matrix per case, fed as an evaluator would be: label maps brought to the prediction's size."""
    matrix = ConfusionMatrix(len(vocabulary.parts))
    for i in range(samples):
        prediction = torch.from_numpy(arrays[f"pred_{kind}_{i}"].astype(np.int64))
        labels = torch.from_numpy(arrays[f"gt_{i}"].astype(np.int64))
        labels = resize_labels(labels, tuple(prediction.shape), rule="floor")
        matrix.update(prediction, to_target(labels, len(vocabulary.parts), vocabulary.ignore_label))
    return matrix


def forced_to_nothing(counts):
    """What the released evaluators count: predictions on unlabelled pixels are overwritten by "nothing"."""
    counts = counts.copy()
    unlabelled = counts[:, -1].sum()
    counts[:, -1] = 0
    counts[-1, -1] = unlabelled
    return counts


def assert_figure(ours, theirs):
    if theirs is None:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(theirs, rel=0, abs=1e-8)


def test_every_case_is_there():
    assert len(CASES) == 12


@pytest.mark.parametrize("name", CASES)
def test_confusions_equal_the_recorded_ones(name):
    facts, arrays, vocabulary = load_case(name)
    count = len(vocabulary.parts)
    oracle = accumulate(arrays, vocabulary, "oracle", facts["num_samples"]).numpy()
    everything = accumulate(arrays, vocabulary, "all", facts["num_samples"]).numpy()
    np.testing.assert_array_equal(oracle[:count, :count], arrays["conf_ov"][:count, :count])
    if name.startswith("golden_edge_ignore"):  # here the released evaluators raise and leave no matrix
        return
    np.testing.assert_array_equal(forced_to_nothing(oracle), arrays["conf_oracle"])
    np.testing.assert_array_equal(forced_to_nothing(everything), arrays["conf_pred_all"])


@pytest.mark.parametrize("name", CASES)
def test_ov_parts_equals_the_released_evaluator(name):
    facts, arrays, vocabulary = load_case(name)
    matrix = accumulate(arrays, vocabulary, "oracle", facts["num_samples"])
    result = ov_parts(matrix, vocabulary, "oracle_obj")
    expected = facts["evaluators"]["ov_parts"]["sem_seg"]
    names = {"mIoU": "mIoU", "seen": "mIoU-base", "unseen": "mIoU-unbase", "harmonic": "h-IoU", "fwIoU": "fwIoU"}
    for ours, theirs in names.items():
        assert_figure(result.summary[ours], expected[theirs])
    for part, iou in zip(vocabulary.parts, result.classes["IoU"], strict=True):
        assert_figure(iou, expected[f"IoU-{part}"])
    assert len(expected) == len(names) + len(vocabulary.parts)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["oracle", "all"])
def test_recommended_equals_sets_of_pixels(name, kind):
    """The recommended protocol against pixel sets, one class at a time, from the label maps themselves."""
    facts, arrays, vocabulary = load_case(name)
    count, mode = len(vocabulary.parts), {"oracle": "oracle_obj", "all": "pred_all"}[kind]
    predictions, labels = [], []
    for i in range(facts["num_samples"]):
        prediction = arrays[f"pred_{kind}_{i}"].astype(np.int64)
        label = resize_labels(torch.from_numpy(arrays[f"gt_{i}"].astype(np.int64)), prediction.shape, "floor").numpy()
        known = label != vocabulary.ignore_label
        predictions.append(prediction[known])
        labels.append(label[known])
    prediction, label = np.concatenate(predictions), np.concatenate(labels)
    ious = {
        part: 100 * np.sum((prediction == part) & (label == part)) / np.sum((prediction == part) | (label == part))
        for part in range(count)
        if (label == part).any()
    }
    result = recommended(accumulate(arrays, vocabulary, kind, facts["num_samples"]), vocabulary, mode)
    groups = {"mIoU": range(count), "seen": vocabulary.seen_part_ids, "unseen": vocabulary.unseen_part_ids}
    for key, ids in groups.items():
        values = [ious[part] for part in ids if part in ious]
        assert_figure(result.summary[key], float(np.mean(values)) if values else None)
        assert result.summary["classes" if key == "mIoU" else f"classes_{key}"] == len(values)
    assert_figure(result.summary["pixel_accuracy"], 100 * np.mean(prediction == label))
    predicted_only = set(np.unique(prediction)) - set(np.unique(label)) - {count}
    assert result.summary["predicted_only"] == len(predicted_only)
    assert set(np.flatnonzero(result.classes["predicted_only"])) == predicted_only


def test_a_perfect_prediction_scores_100_under_every_protocol():
    facts, arrays, vocabulary = load_case("golden_edge_perfect")
    matrix = accumulate(arrays, vocabulary, "oracle", facts["num_samples"])
    for protocol in PROTOCOLS.values():
        summary = protocol.read(matrix, vocabulary, "oracle_obj").summary
        assert {summary["mIoU"], summary["pixel_accuracy"], summary["fwIoU"]} == {100.0}

"""Recorded runs of the released evaluators: label maps in, confusion matrices and metrics out."""

import numpy as np
import pytest
import torch

from ovparts_lib.evaluation.boundary import band_width, label_difference
from ovparts_lib.evaluation.evaluator import double_resized
from ovparts_lib.evaluation.objects import object_target
from ovparts_lib.evaluation.protocols import PROTOCOLS, wrapped_to_8_bits
from ovparts_lib.evaluation.scoring import count_pairs
from ovparts_lib.images import resize_labels
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary
from tests.evaluation.recorded import (
    CASES,
    accumulate,
    assert_figure,
    assert_figures,
    forced_to_nothing,
    load_case,
    read,
    read_matrix,
    released_boundaries,
)
from tests.evaluation.released_keys import released_keys


def test_every_case_is_there():
    assert len(CASES) == 12


@pytest.mark.parametrize("name", CASES)
def test_confusions_equal_the_recorded_ones(name):
    facts, arrays, vocabulary = load_case(name)
    count = len(vocabulary.parts)
    oracle = accumulate(arrays, vocabulary, "oracle", facts["num_samples"])
    everything = accumulate(arrays, vocabulary, "all", facts["num_samples"])
    np.testing.assert_array_equal(oracle[:count, :count], arrays["conf_ov"][:count, :count])
    if name.startswith("golden_edge_ignore"):  # here the released evaluators raise and leave no matrix
        return
    np.testing.assert_array_equal(forced_to_nothing(oracle), arrays["conf_oracle"])
    np.testing.assert_array_equal(forced_to_nothing(everything), arrays["conf_pred_all"])


@pytest.mark.parametrize("name", CASES)
def test_ov_parts_equals_the_released_evaluator(name):
    facts, arrays, vocabulary = load_case(name)
    matrix = accumulate(arrays, vocabulary, "oracle", facts["num_samples"])
    result = read_matrix(PROTOCOLS["ov_parts"], matrix, vocabulary, "oracle_obj")
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
    result = read_matrix(
        PROTOCOLS["recommended"], accumulate(arrays, vocabulary, kind, facts["num_samples"]), vocabulary, mode
    )
    groups = {"mIoU": range(count), "seen": vocabulary.seen_ids, "unseen": vocabulary.unseen_ids}
    for key, ids in groups.items():
        values = [ious[part] for part in ids if part in ious]
        assert_figure(result.summary[key], float(np.mean(values)) if values else None)
        assert result.summary["classes" if key == "mIoU" else f"classes_{key}"] == len(values)
    assert_figure(result.summary["pixel_accuracy"], 100 * np.mean(prediction == label))
    predicted_only = set(np.unique(prediction)) - set(np.unique(label)) - {count}
    assert result.summary["predicted_only"] == len(predicted_only)
    assert set(np.flatnonzero(result.classes["predicted_only"])) == predicted_only


RELEASED = {
    "partclipseg_oracle": (("pc_clipseg_oracle", "partclipseg_oracle"), "sem_seg", "oracle"),
    "partclipseg_pred_all": (("pc_clipseg_pred_all", "partclipseg_pred_all"), "sem_seg", "all"),
    "partcatseg_oracle": (("pc_catseg", "partcatseg"), "oracle_obj", "oracle"),
    "partcatseg_pred_all": (("pc_catseg", "partcatseg"), "pred_all", "all"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("protocol", RELEASED)
def test_every_released_figure_is_reproduced(name, protocol):
    facts, arrays, vocabulary = load_case(name)
    evaluators, section, kind = RELEASED[protocol]
    mode = {"oracle": "oracle_obj", "all": "pred_all"}[kind]
    for evaluator in evaluators:
        expected = facts["evaluators"][evaluator]
        if "error" in expected:  # the released code crashes on a sample without labels; ours must not
            result = read_matrix(PROTOCOLS[protocol], accumulate(arrays, vocabulary, kind, 2), vocabulary, mode)
            assert result.summary["classes"] > 0
            continue
        matrix = accumulate(arrays, vocabulary, kind, facts["num_samples"])
        boundaries = released_boundaries(arrays, vocabulary, kind, facts["num_samples"])
        recorded = arrays[{"oracle": "conf_b_oracle", "all": "conf_b_pred_all"}[kind]]
        np.testing.assert_array_equal(boundaries, recorded)
        result = read_matrix(PROTOCOLS[protocol], matrix, vocabulary, mode, boundary_released=boundaries)
        assert_figures(released_keys(result, vocabulary.parts), expected[section])


def test_the_two_modes_of_part_catseg_on_probabilities():
    """Label maps of the oracle and of everything, from probability maps and labels of another size."""
    facts, arrays = read("golden_catseg_metrics")
    names = facts["class_names"]
    seen = [0, 1, 2, 3, 6]  # a part of an object may be seen here and another not, so parts stand for objects
    words = [name.replace("'s", "") for name in names]
    vocabulary = PartVocabulary("eight", words, words, frozenset(words) - {words[i] for i in seen})
    matrices = {"oracle_obj": 0, "pred_all": 0}
    for index in range(4):
        probabilities = torch.from_numpy(arrays["probs"][index])
        labels = torch.from_numpy(arrays["labels_at_test_resolution"][index].astype(np.int64))
        target = resize_labels(labels, tuple(probabilities.shape[1:]), "floor")
        target = target.masked_fill(target == 255, 8)
        others = [part for part in range(8) if part // 2 != index % 4]
        restricted = probabilities[:8].clone()
        restricted[others] = -1.0
        matrices["oracle_obj"] += count_pairs(restricted.argmax(0), target, 8).numpy()
        matrices["pred_all"] += count_pairs(probabilities.argmax(0), target, 8).numpy()
    for mode, recorded in (("oracle_obj", "oracle"), ("pred_all", "predall")):
        counts = forced_to_nothing(matrices[mode])
        np.testing.assert_array_equal(counts, arrays[f"confusion_partcatseg_{recorded}"])
        protocol = PROTOCOLS["partcatseg_oracle" if mode == "oracle_obj" else "partcatseg_pred_all"]
        figures = released_keys(read_matrix(protocol, matrices[mode], vocabulary, mode), names)
        unrecorded = ("ACC-", "Recall-")
        figures = {key: value for key, value in figures.items() if not key.startswith(unrecorded)}
        assert_figures(figures, facts["results"]["part_catseg"][mode])
    figures = released_keys(read_matrix(PROTOCOLS["ov_parts"], matrices["oracle_obj"], vocabulary, "oracle_obj"), names)
    assert_figures(figures, facts["results"]["ov_parts"])


@pytest.mark.parametrize(
    ("case", "protocol", "seen"),
    [("detectron2", "detectron2", 20), ("ovseg", "ovseg", 20), ("ovseg_with_base_set", "ovseg", 8)],
)
def test_object_level_evaluators(case, protocol, seen):
    facts, arrays = read("golden_object_level")
    expected = facts["results"][case]
    names = tuple(key.removeprefix("IoU-") for key in expected if key.startswith("IoU-"))
    vocabulary = PartVocabulary("voc", names, names, frozenset(names[seen:]))
    matrix, boundary = 0, 0
    for index in range(4):
        prediction, target = (torch.from_numpy(arrays[f"{k}_{index}"].astype(np.int64)) for k in ("pred", "gt"))
        target = target.masked_fill(target == 255, 20)
        matrix += count_pairs(prediction, target, 20).numpy()
        boundary += count_pairs(label_difference(prediction), label_difference(target), 20).numpy()
    np.testing.assert_array_equal(matrix, arrays["conf"])
    np.testing.assert_array_equal(wrapped_to_8_bits(boundary), arrays["bconf"])
    result = read_matrix(PROTOCOLS[protocol], matrix, vocabulary, "pred_all", boundary_released=boundary)
    figures = released_keys(result, names)
    if seen == 20:  # the recordings without a base set have no group figures; ours repeat the overall ones
        for key in [key for key in figures if ("-base" in key and "IoU-base" in key) or key.startswith("pAcc-")]:
            figures.pop(key)
    assert_figures(figures, expected)


def test_the_object_evaluator_of_part_catseg():
    facts, arrays = read("golden_objcatseg")
    vocabulary = load_vocabulary("pascal_part_116")
    objects = vocabulary.whole_objects
    matrix = 0
    for index in range(4):
        labels = torch.from_numpy(arrays[f"gt_obj_{index}"].astype(np.int64))
        prediction = torch.from_numpy(arrays[f"pred_{index}"].astype(np.int64))
        matrix += count_pairs(prediction, object_target(labels, vocabulary), 16).numpy()
    np.testing.assert_array_equal(matrix, arrays["conf"])
    result = read_matrix(PROTOCOLS["objcatseg"], matrix, objects, "pred_all")
    assert_figures(released_keys(result, objects.classes), facts["results"])


def test_label_difference_maps_are_the_recorded_ones():
    facts, arrays = read("golden_boundary")
    for index in range(4):
        mask = torch.from_numpy(arrays[f"mask_{index}"].astype(np.int64))
        assert band_width(*mask.shape) == facts[f"dilation_{index}"]
        np.testing.assert_array_equal(label_difference(mask).numpy(), arrays[f"boundary_{index}"])


def test_twice_resized_ground_truth_is_the_recorded_one():
    facts, arrays = read("golden_double_resize")
    for index in range(3):
        case = facts[f"case_{index}"]
        evaluated = double_resized(torch.from_numpy(arrays[f"label_{index}"]), case["min_size"], case["max_size"])
        np.testing.assert_array_equal(evaluated.numpy(), arrays[f"evaluated_{index}"])


@pytest.mark.parametrize("height", [148, 205, 235])
def test_the_evaluators_second_resize_is_in_float32(height):
    """The released evaluators' rule, in their type; in float64 some rows would fall on the other side of an edge."""
    mapper, target = 640, np.arange(height)
    back = np.floor(target.astype(np.float32) * (np.float32(mapper) / np.float32(height))).clip(max=mapper - 1)
    there = np.floor(np.arange(mapper) * (height / mapper)).astype(int)
    labels = torch.arange(height)[:, None].expand(height, 300)
    np.testing.assert_array_equal(double_resized(labels, mapper, 2560)[:, 7].numpy(), there[back.astype(int)])


def test_a_perfect_prediction_scores_100_under_every_protocol():
    facts, arrays, vocabulary = load_case("golden_edge_perfect")
    matrix = accumulate(arrays, vocabulary, "oracle", facts["num_samples"])
    for protocol in PROTOCOLS.values():
        nothing = np.zeros(len(vocabulary.parts) + 1, np.int64)
        summary = read_matrix(protocol, forced_to_nothing(matrix), vocabulary, protocol.modes[0], background=nothing)
        assert {summary.summary[key] for key in ("mIoU", "pixel_accuracy", "fwIoU")} == {100.0}

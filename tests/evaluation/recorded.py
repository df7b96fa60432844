"""Recorded runs of the released evaluators, read from tests/golden/evaluation."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ovparts_lib.evaluation.boundary import label_difference
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.scoring import count_pairs, to_target
from ovparts_lib.evaluation.sg_iou import load_fathers
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.images import resize_labels
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluation"
CASES = sorted(
    [path.stem for path in GOLDEN.glob("golden_metrics_*.json")] + [p.stem for p in GOLDEN.glob("golden_edge_*.json")]
)


def read(name):
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as file:
        return facts, {key: file[key] for key in file.files}


def load_case(name):
    facts, arrays = read(name)
    toy = facts.get("toy12")
    vocabulary = load_vocabulary("pascal_part_116")
    if toy:
        # A part is seen iff its object is, so the base set of a case follows from its parts.
        base = {toy["parts"][i].split("'s")[0] for i in facts["base_part_ids"]}
        unseen = frozenset(set(toy["objects"]) - base)
        vocabulary = PartVocabulary("toy12", toy["parts"], toy["objects"], unseen, toy["ignore_label"])
    assert list(vocabulary.seen_ids) == facts["base_part_ids"]
    return facts, arrays, vocabulary


def accumulate(arrays, vocabulary, kind, samples):
    """A matrix per case, fed as an evaluator would be: label maps brought to the prediction's size."""
    count = len(vocabulary.parts)
    counts = (count_pairs(*pair, count) for pair in pairs(arrays, vocabulary, kind, samples))
    return sum(counts).numpy()


def pairs(arrays, vocabulary, kind, samples):
    for i in range(samples):
        prediction = torch.from_numpy(arrays[f"pred_{kind}_{i}"].astype(np.int64))
        labels = torch.from_numpy(arrays[f"gt_{i}"].astype(np.int64))
        labels = resize_labels(labels, tuple(prediction.shape), rule="floor", released_dtype=torch.float32)
        yield prediction, to_target(labels, len(vocabulary.parts), vocabulary.ignore_label)


def released_boundaries(arrays, vocabulary, kind, samples):
    """The confusion of label-difference maps, predictions on unlabelled pixels forced to nothing."""
    count = len(vocabulary.parts)
    matrix = 0
    for prediction, target in pairs(arrays, vocabulary, kind, samples):
        prediction = prediction.masked_fill(target == count, count)
        matrix += count_pairs(label_difference(prediction), label_difference(target), count)
    return matrix.numpy()


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


def assert_figures(ours, theirs):
    """Every recorded key is there with its value, and what the released code left out is NaN."""
    assert set(theirs) <= set(ours)
    for key, value in theirs.items():
        if value is None:
            assert math.isnan(ours[key]), key
        else:
            assert ours[key] == pytest.approx(value, rel=0, abs=1e-8), key
    for key in set(ours) - set(theirs):
        assert math.isnan(ours[key]), key


def read_matrix(protocol, matrix, vocabulary, mode, *, background=None, boundary_released=None):
    """A protocol's figures of a matrix that stands alone, with predictions on known background, int64 (N+1,)."""
    if background is not None:
        charged = np.zeros_like(matrix)
        charged[:, -1] = background
        background = ImageCounts.of_matrix(charged)
    if not load_fathers(vocabulary.name):  # without a table SG-IoU is the vanilla IoU
        protocol = dataclasses.replace(protocol, semantics_guided=False)
    kept = {} if boundary_released is None else {mode: boundary_released}
    counts = {mode: ImageCounts.of_matrix(matrix)}
    evaluation = Evaluation(
        counts, ("all",), 1, 0, 1, vocabulary, protocol.level, background=background, boundary_released=kept
    )
    return protocol(evaluation, mode)

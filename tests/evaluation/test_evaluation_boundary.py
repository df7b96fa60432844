import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ovparts_lib.evaluation.boundary import band_width, class_boundary_counts
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.protocols import PROTOCOLS, score_all
from tests.evaluation.released_keys import released_keys
from tests.evaluation.scripted import VOCABULARY, Labels, Scripted


def eroded(mask, times):
    """A mask eroded by a 3×3 square, again and again, nothing being outside the picture."""
    return ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=times)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(3, 90), st.integers(3, 90)), block=st.integers(1, 30))
def test_boundaries_equal_erosion_of_every_class_by_itself(seed, size, block):
    draw = np.random.default_rng(seed)
    maps = []
    for _ in range(2):
        coarse = draw.integers(0, 5, (size[0] // block + 1, size[1] // block + 1))
        maps.append(np.kron(coarse, np.ones((block, block), int))[: size[0], : size[1]])
    prediction, target = maps
    times = band_width(*size)
    found = class_boundary_counts(torch.from_numpy(prediction), torch.from_numpy(target), 4).numpy()
    for label in range(4):
        of_prediction, of_target = (m == label for m in maps)
        of_prediction &= ~eroded(of_prediction, times)
        of_target &= ~eroded(of_target, times)
        assert found[0, label] == (of_prediction & of_target).sum()
        assert found[1, label] == of_target.sum()
        assert found[2, label] == of_prediction.sum()


def iou(both, one, other):
    return both / (one + other - both)


@settings(deadline=None, max_examples=25)
@given(side=st.integers(30, 60), shift=st.integers(1, 5))
def test_shifting_a_mask_lowers_boundary_iou_faster_than_iou(side, shift):
    target = torch.full((100, 120), 1)
    target[20 : 20 + side, 25 : 25 + side] = 0
    prediction = target.roll(shift, 1)
    both, one, other = (int(count[0]) for count in class_boundary_counts(prediction, target, 1))
    areas = [int(mask.sum()) for mask in ((prediction == 0) & (target == 0), target == 0, prediction == 0)]
    assert iou(both, one, other) < iou(*areas) < 1


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(Scripted(), Labels(), device="cpu", progress=False, boundary=True)


def test_protocols_read_the_boundary_they_are_defined_with(evaluation):
    summaries = {(one.protocol, one.mode): one.summary for one in score_all(evaluation)}
    sound = summaries["recommended", "pred_all"]
    both, labelled, predicted = evaluation.boundary["pred_all"]
    expected = [100 * iou(b, g, p) for b, g, p in zip(both, labelled, predicted, strict=True) if g]
    assert sound["boundary_IoU"] == pytest.approx(np.mean(expected))
    assert summaries["partclipseg_pred_all", "pred_all"]["boundary_IoU"] != pytest.approx(sound["boundary_IoU"])
    assert np.isnan(summaries["ov_parts", "oracle_obj"]["boundary_IoU"])
    keys = released_keys(PROTOCOLS["partclipseg_oracle"](evaluation, "oracle_obj"), VOCABULARY.parts)
    assert keys["Boundary-mIoU-base"] == summaries["partclipseg_oracle", "oracle_obj"]["boundary_IoU_seen"]


def test_boundaries_leave_everything_else_as_it_is(evaluation):
    plain = evaluate(Scripted(), Labels(), device="cpu", progress=False)
    for mode in plain.modes:
        np.testing.assert_array_equal(plain.matrices[mode], evaluation.matrices[mode])
    assert plain.boundary == {}
    assert np.isnan(PROTOCOLS["recommended"](plain, "oracle_obj").summary["boundary_IoU"])


def test_boundary_iou_of_small_parts_is_their_iou():
    """At 2 % of the diagonal a part narrower than 2d + 1 pixels has no interior; a wider one has."""
    d = band_width(375, 500)
    assert d == 12
    for side, small in ((2 * d, True), (2 * d + 8, False)):
        target, prediction = torch.ones(375, 500, dtype=torch.int64), torch.ones(375, 500, dtype=torch.int64)
        target[100 : 100 + side, 200 : 200 + side] = 0
        prediction[100 : 100 + side, 203 : 203 + side] = 0
        both, labelled, predicted = class_boundary_counts(prediction, target, 1)[:, 0].tolist()
        overlap = side * (side - 3)
        assert (both == overlap and labelled == predicted == side**2) == small
        boundary, plain = both / (labelled + predicted - both), overlap / (2 * side**2 - overlap)
        assert boundary == pytest.approx(plain) if small else boundary < plain

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.evaluation.metrics import harmonic
from ovparts_lib.evaluation.protocols import PROTOCOLS, UnsupportedModeError, score_all
from ovparts_lib.vocabularies import PartVocabulary
from tests.evaluation.recorded import read_matrix

VOCABULARY = PartVocabulary(
    "three", ("cat's head", "dog's head", "dog's tail"), ("cat", "dog"), unseen_objects=frozenset({"dog"})
)


def matrix_of(rows):
    return np.array(rows, dtype=np.int64)


def random_case(seed, classes=6):
    """Pixels of a few classes, so that some are missing from the labels, the predictions or both."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(draw.permutation(classes + 1)[: draw.integers(1, classes + 2)], 60)
    predictions = np.where(draw.random(60) < 0.5, labels, draw.integers(0, classes + 1, 60))
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(matrix, (predictions, labels), 1)
    return predictions, labels, matrix


def read(protocol, matrix, vocabulary, mode=None):
    """A matrix under a protocol in the first mode it has, with nothing predicted on known background."""
    protocol = PROTOCOLS[protocol]
    nothing = np.zeros(len(vocabulary.parts) + 1, np.int64)
    return read_matrix(protocol, matrix, vocabulary, mode or protocol.modes[0], background=nothing)


def vocabulary_of(order, unseen=("b",)):
    names = np.array(["a's x", "a's y", "b's x", "b's z", "c's x", "c's w"])
    return PartVocabulary("six", tuple(names[list(order)]), ("a", "b", "c"), frozenset(unseen))


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), protocol=st.sampled_from(sorted(PROTOCOLS)))
def test_class_figures_equal_sets_of_pixels(seed, protocol):
    predictions, labels, matrix = random_case(seed)
    classes = read(protocol, matrix, vocabulary_of(range(6))).classes
    known = labels < 6
    if not PROTOCOLS[protocol].predicted_background:  # no row for "nothing": such pixels do not exist in an oracle mode
        known &= predictions < 6
    if protocol == "objcatseg":  # here nothing is a label like any other
        known[:] = True
    for part in range(6):
        wanted = set(np.flatnonzero((labels == part) & known))
        given_ = set(np.flatnonzero((predictions == part) & known))
        row = classes.iloc[part]
        assert row["pixels"] == len(wanted)
        assert row["predicted_pixels"] == len(given_)
        assert row["predicted_only"] == (bool(given_) and not wanted)
        if wanted:
            assert row["IoU"] == pytest.approx(100 * len(wanted & given_) / len(wanted | given_), abs=1e-10)
            assert row["recall"] == pytest.approx(100 * len(wanted & given_) / len(wanted), abs=1e-10)
        else:
            zero = given_ and PROTOCOLS[protocol].only_predicted_iou == 0
            assert row["IoU"] == 0 if zero else math.isnan(row["IoU"])
            assert math.isnan(row["recall"])
        if given_:
            assert row["precision"] == pytest.approx(100 * len(wanted & given_) / len(given_), abs=1e-10)
        else:
            assert math.isnan(row["precision"])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(6)), protocol=st.sampled_from(sorted(PROTOCOLS)))
def test_permuting_class_ids_permutes_the_table(seed, order, protocol):
    matrix = random_case(seed)[2]
    index = [*order, 6]
    here = read(protocol, matrix, vocabulary_of(range(6)))
    there = read(protocol, matrix[np.ix_(index, index)], vocabulary_of(order))
    assert here.classes.iloc[order].reset_index(drop=True).equals(there.classes)
    for key, value in here.summary.items():
        assert there.summary[key] == pytest.approx(value, nan_ok=True, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), protocol=st.sampled_from(sorted(PROTOCOLS)))
def test_a_perfect_prediction_scores_100(seed, protocol):
    labels = random_case(seed)[1]
    matrix = np.diag(np.bincount(labels, minlength=7))
    if not matrix[:6].any():
        matrix[0, 0] = 1
    result = read(protocol, matrix, vocabulary_of(range(6)))
    for key in ("mIoU", "seen", "unseen", "harmonic", "pixel_accuracy", "fwIoU"):
        assert math.isnan(result.summary[key]) or result.summary[key] == pytest.approx(100, abs=1e-10)
    assert result.summary["mIoU"] == pytest.approx(100, abs=1e-10)
    occurring = result.classes[result.classes["pixels"] > 0]
    assert (occurring[["IoU", "recall", "precision"]] == 100).all(axis=None)


def test_a_missed_class_counts_as_zero_in_its_group():
    matrix = matrix_of([[10, 0, 5, 7], [0, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 100]])
    summary = read_matrix(PROTOCOLS["recommended"], matrix, VOCABULARY, "oracle_obj").summary
    assert summary["seen"] == pytest.approx(100 * 10 / 15)
    assert summary["unseen"] == pytest.approx((100 + 0) / 2)
    assert summary["classes_unseen"] == 2


def test_a_class_that_is_only_predicted_is_reported_apart_or_averaged_as_released():
    matrix = matrix_of([[10, 0, 0, 0], [0, 6, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    ours, released = (read(protocol, matrix, VOCABULARY) for protocol in ("recommended", "ov_parts"))
    assert ours.summary["unseen"] == 100
    assert (ours.summary["classes_unseen"], ours.summary["predicted_only"]) == (1, 1)
    assert released.summary["unseen"] == 50
    assert released.summary["classes_unseen"] == 2
    assert math.isnan(ours.classes["IoU"][2])
    assert list(ours.classes["predicted_only"]) == [False, False, True]


def test_background_on_a_labelled_pixel_is_an_error_but_no_class():
    matrix = matrix_of([[6, 0, 0, 50], [0, 4, 0, 0], [0, 0, 4, 0], [6, 0, 0, 900]])
    result = read_matrix(PROTOCOLS["recommended"], matrix, VOCABULARY, "pred_all")
    assert result.summary["seen"] == pytest.approx(50)
    assert result.summary["mIoU"] == pytest.approx((50 + 100 + 100) / 3)
    assert result.summary["classes"] == 3
    assert result.summary["pixel_accuracy"] == pytest.approx(100 * 14 / 20)
    assert result.classes["precision"][0] == 100  # predictions on unlabelled pixels are not judged


def test_unlabelled_pixels_change_nothing():
    matrix = matrix_of([[6, 1, 0, 0], [0, 4, 2, 0], [1, 0, 4, 0], [6, 0, 0, 0]])
    painted = matrix.copy()
    painted[:, 3] = [1000, 2000, 3000, 4000]
    for name in sorted(PROTOCOLS):
        if PROTOCOLS[name].background in ("forced", "counted"):  # these count unlabelled pixels, see below
            continue
        one, other = (read(name, m, VOCABULARY) for m in (matrix, painted))
        assert str(one.summary) == str(other.summary)  # NaN is not equal to itself
        assert one.classes.equals(other.classes)


def test_part_catseg_counts_unlabelled_pixels_as_right_whatever_was_predicted_there():
    matrix = matrix_of([[6, 1, 0, 0], [0, 4, 2, 0], [1, 0, 4, 0], [6, 0, 0, 0]])
    painted, forced = matrix.copy(), matrix.copy()
    painted[:, 3] = [10, 20, 30, 40]
    forced[3, 3] = 100
    one, other = (read("partcatseg_pred_all", m, VOCABULARY).summary for m in (painted, forced))
    assert str(one) == str(other)
    assert one["background_IoU"] == pytest.approx(100 * 100 / 106)
    assert one["mIoU"] == pytest.approx((100 * 6 / 14 + 100 * 4 / 7 + 100 * 4 / 7 + 100 * 100 / 106) / 4)


def test_predictions_on_known_background_are_charged_by_the_strict_protocol_alone():
    matrix = matrix_of([[6, 0, 0, 50], [0, 4, 0, 0], [0, 0, 4, 0], [6, 0, 0, 900]])
    painted = np.array([8, 0, 4, 1000])  # pixels of each part, and of nothing, where no object is
    strict = read_matrix(PROTOCOLS["recommended_strict"], matrix, VOCABULARY, "pred_all", background=painted)
    lenient = read_matrix(PROTOCOLS["recommended"], matrix, VOCABULARY, "pred_all")
    assert lenient.classes["IoU"].tolist() == [50, 100, 100]
    assert strict.classes["IoU"].tolist() == pytest.approx([100 * 6 / 20, 100, 50])
    assert strict.classes["recall"].equals(lenient.classes["recall"])
    assert strict.classes["precision"].tolist() == pytest.approx([100 * 6 / 14, 100, 50])
    with pytest.raises(UnsupportedModeError, match="charges predictions on known background, which were not counted"):
        read_matrix(PROTOCOLS["recommended_strict"], matrix, VOCABULARY, "pred_all")


def test_missed_classes_leave_the_group_means_of_part_catseg():
    """Worked through by hand: dog's tail is missed, dog's head has an IoU of one half."""
    matrix = matrix_of([[10, 0, 5, 0], [0, 5, 5, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    figures = {name: read(name, matrix, VOCABULARY).summary for name in ("partclipseg_oracle", "partcatseg_oracle")}
    assert figures["partclipseg_oracle"]["unseen"] == pytest.approx((50 + 0) / 2)
    assert figures["partcatseg_oracle"]["unseen"] == pytest.approx(50)
    assert figures["partcatseg_oracle"]["mIoU"] == figures["partclipseg_oracle"]["mIoU"]
    assert (figures["partcatseg_oracle"]["classes_unseen"], figures["partcatseg_oracle"]["classes"]) == (1, 3)
    assert figures["partcatseg_oracle"]["pixel_accuracy_unseen"] == pytest.approx(100)
    assert figures["partclipseg_oracle"]["pixel_accuracy_unseen"] == pytest.approx(100 * 5 / 15)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_empty_groups_are_nan_and_every_key_is_there(protocol):
    full = read(protocol, matrix_of(np.eye(4)), VOCABULARY).summary
    empty = read(protocol, np.zeros((4, 4), np.int64), VOCABULARY).summary
    only_seen = read(protocol, matrix_of(np.diag([5, 0, 0, 9])), VOCABULARY).summary
    assert set(full) == set(empty) == set(only_seen)
    assert all(math.isnan(empty[key]) for key in ("mIoU", "seen", "unseen", "harmonic", "pixel_accuracy", "fwIoU"))
    assert empty["classes"] == 0
    assert only_seen["seen"] == 100
    assert math.isnan(only_seen["unseen"])
    assert math.isnan(only_seen["harmonic"])


def test_harmonic():
    assert harmonic(49.78, 53.66) == pytest.approx(51.65, abs=0.005)  # worked example of the field
    assert math.isnan(harmonic(0.0, 0.0))
    assert math.isnan(harmonic(math.nan, 50.0))
    assert harmonic(0.0, 50.0) == 0


def test_what_is_not_defined_is_refused():
    with pytest.raises(
        UnsupportedModeError, match="'ov_parts' is not defined for the mode 'pred_all', only for oracle_obj"
    ):
        read_matrix(PROTOCOLS["ov_parts"], np.zeros((4, 4), np.int64), VOCABULARY, "pred_all")


def test_the_registry_names_itself():
    for name, protocol in PROTOCOLS.items():
        result = read(name, np.zeros((4, 4), np.int64), VOCABULARY)
        assert (result.protocol, result.version, result.vocabulary_hash) == (name, protocol.version, VOCABULARY.hash)
    with pytest.raises(
        ValueError, match="no protocol called 'best'; there are recommended, recommended_strict, ov_parts"
    ):
        score_all(None, ["best"])


def test_the_harmonic_mean_of_two_zeros_is_zero_for_ovseg_alone():
    """ov-seg computes 2 / (1 / a + 1 / b) with numpy's floats: 2 / (inf + inf). The other evaluators give NaN."""
    names = ("cat", "dog", "tree")
    objects = PartVocabulary("objects", names, names, frozenset({"dog"}))
    missed = matrix_of([[0, 0, 0, 0], [0, 0, 0, 0], [4, 6, 0, 0], [0, 0, 0, 0]])
    with np.errstate(divide="ignore"):
        assert 2 / (1 / np.float64(0) + 1 / np.float64(0)) == 0
    for name, protocol in PROTOCOLS.items():
        summary = read(name, missed, objects).summary
        if protocol.groups != "found":
            assert (summary["seen"], summary["unseen"]) == (0, 0)
        assert summary["harmonic"] == 0 if name == "ovseg" else math.isnan(summary["harmonic"])
    empty = read("ovseg", matrix_of(np.zeros((4, 4))), objects).summary
    assert math.isnan(empty["harmonic"])

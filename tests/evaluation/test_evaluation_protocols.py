import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.evaluation import (
    PROTOCOLS,
    UnsupportedModeError,
    harmonic_mean,
    ov_parts,
    recommended,
    score_all,
)
from ovparts_lib.vocabularies import Vocabulary

VOCABULARY = Vocabulary(
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


def vocabulary_of(order, unseen=("b",)):
    names = np.array(["a's x", "a's y", "b's x", "b's z", "c's x", "c's w"])
    return Vocabulary("six", tuple(names[list(order)]), ("a", "b", "c"), frozenset(unseen))


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), protocol=st.sampled_from(sorted(PROTOCOLS)))
def test_class_figures_equal_sets_of_pixels(seed, protocol):
    predictions, labels, matrix = random_case(seed)
    classes = PROTOCOLS[protocol].read(matrix, vocabulary_of(range(6)), "oracle_obj").classes
    known = labels < 6
    if protocol == "ov_parts":  # it has no row for "nothing": such pixels do not exist in its oracle mode
        known &= predictions < 6
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
            assert math.isnan(row["IoU"])
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
    here = PROTOCOLS[protocol].read(matrix, vocabulary_of(range(6)), "oracle_obj")
    there = PROTOCOLS[protocol].read(matrix[np.ix_(index, index)], vocabulary_of(order), "oracle_obj")
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
    result = PROTOCOLS[protocol].read(matrix, vocabulary_of(range(6)), "oracle_obj")
    for key in ("mIoU", "seen", "unseen", "harmonic", "pixel_accuracy", "fwIoU"):
        assert math.isnan(result.summary[key]) or result.summary[key] == pytest.approx(100, abs=1e-10)
    assert result.summary["mIoU"] == pytest.approx(100, abs=1e-10)
    occurring = result.classes[result.classes["pixels"] > 0]
    assert (occurring[["IoU", "recall", "precision"]] == 100).all(axis=None)


def test_a_missed_class_counts_as_zero_in_its_group():
    matrix = matrix_of([[10, 0, 5, 7], [0, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 100]])
    summary = recommended(matrix, VOCABULARY, "oracle_obj").summary
    assert summary["seen"] == pytest.approx(100 * 10 / 15)
    assert summary["unseen"] == pytest.approx((100 + 0) / 2)
    assert summary["classes_unseen"] == 2


def test_a_class_that_is_only_predicted_is_reported_apart_or_averaged_as_released():
    matrix = matrix_of([[10, 0, 0, 0], [0, 6, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    ours, released = (protocol(matrix, VOCABULARY, "oracle_obj") for protocol in (recommended, ov_parts))
    assert ours.summary["unseen"] == 100
    assert (ours.summary["classes_unseen"], ours.summary["predicted_only"]) == (1, 1)
    assert released.summary["unseen"] == 50
    assert released.summary["classes_unseen"] == 2
    assert math.isnan(ours.classes["IoU"][2])
    assert list(ours.classes["predicted_only"]) == [False, False, True]


def test_background_on_a_labelled_pixel_is_an_error_but_no_class():
    matrix = matrix_of([[6, 0, 0, 50], [0, 4, 0, 0], [0, 0, 4, 0], [6, 0, 0, 900]])
    result = recommended(matrix, VOCABULARY, "pred_all")
    assert result.summary["seen"] == pytest.approx(50)
    assert result.summary["mIoU"] == pytest.approx((50 + 100 + 100) / 3)
    assert result.summary["classes"] == 3
    assert result.summary["pixel_accuracy"] == pytest.approx(100 * 14 / 20)
    assert result.classes["precision"][0] == 100  # predictions on unlabelled pixels are not judged


def test_unlabelled_pixels_change_nothing():
    matrix = matrix_of([[6, 1, 0, 0], [0, 4, 2, 0], [1, 0, 4, 0], [6, 0, 0, 0]])
    painted = matrix.copy()
    painted[:, 3] = [1000, 2000, 3000, 4000]
    for protocol in (recommended, ov_parts):
        one, other = (protocol(m, VOCABULARY, "oracle_obj") for m in (matrix, painted))
        assert one.summary == other.summary
        assert one.classes.equals(other.classes)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_empty_groups_are_nan_and_every_key_is_there(protocol):
    read = PROTOCOLS[protocol].read
    full = read(matrix_of(np.eye(4)), VOCABULARY, "oracle_obj").summary
    empty = read(np.zeros((4, 4), np.int64), VOCABULARY, "oracle_obj").summary
    only_seen = read(matrix_of(np.diag([5, 0, 0, 9])), VOCABULARY, "oracle_obj").summary
    assert set(full) == set(empty) == set(only_seen)
    assert all(math.isnan(empty[key]) for key in ("mIoU", "seen", "unseen", "harmonic", "pixel_accuracy", "fwIoU"))
    assert empty["classes"] == 0
    assert only_seen["seen"] == 100
    assert math.isnan(only_seen["unseen"])
    assert math.isnan(only_seen["harmonic"])


def test_harmonic_mean():
    assert harmonic_mean(49.78, 53.66) == pytest.approx(51.65, abs=0.005)  # worked example of the field
    assert math.isnan(harmonic_mean(0.0, 0.0))
    assert math.isnan(harmonic_mean(math.nan, 50.0))
    assert harmonic_mean(0.0, 50.0) == 0


def test_what_is_not_defined_is_refused():
    with pytest.raises(
        UnsupportedModeError, match="'ov_parts' is not defined for the mode 'pred_all', only for oracle_obj"
    ):
        ov_parts(np.zeros((4, 4), np.int64), VOCABULARY, "pred_all")
    with pytest.raises(ValueError, match=r"a matrix of 3 parts must be \(4, 4\), this one is \(3, 3\)"):
        recommended(np.zeros((3, 3), np.int64), VOCABULARY, "oracle_obj")


def test_the_registry_names_itself():
    for name, protocol in PROTOCOLS.items():
        result = protocol.read(np.zeros((4, 4), np.int64), VOCABULARY, "oracle_obj")
        assert (result.protocol, result.version, result.vocabulary_hash) == (name, protocol.version, VOCABULARY.hash)
    with pytest.raises(ValueError, match="no protocol called 'best'; there are recommended, ov_parts"):
        score_all(None, ["best"])

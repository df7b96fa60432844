import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.scoring import count_pairs
from ovparts_lib.evaluation.stored import Evaluation, MatrixFileError
from ovparts_lib.vocabularies import Vocabulary


def brute_force(prediction, target, classes):
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
        counts[p, t] += 1
    return counts


def random_maps(seed, classes, shape=(7, 9)):
    draw = np.random.default_rng(seed)
    return draw.integers(0, classes + 1, shape), draw.integers(0, classes + 1, shape)


def counted(seed, classes, shape=(7, 9)):
    return count_pairs(*(torch.from_numpy(m) for m in random_maps(seed, classes, shape)), classes).numpy()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_counts_equal_a_loop_over_pixels(dtype):
    prediction, target = random_maps(0, 116)
    counts = count_pairs(torch.from_numpy(prediction).to(dtype), torch.from_numpy(target).to(dtype), 116)
    np.testing.assert_array_equal(counts.numpy(), brute_force(prediction, target, 116))
    assert counts.dtype == torch.int64


def test_rows_are_predictions_and_columns_ground_truth():
    counts = count_pairs(torch.tensor([2, 3]), torch.tensor([0, 3]), 3)
    expected = np.zeros((4, 4), np.int64)
    expected[2, 0] = expected[3, 3] = 1
    np.testing.assert_array_equal(counts.numpy(), expected)


@settings(deadline=None, max_examples=40)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
def test_pictures_together_count_as_much_as_one_by_one(seeds):
    maps = [random_maps(seed, 5) for seed in seeds]
    prediction, target = (torch.from_numpy(np.concatenate(several)) for several in zip(*maps, strict=True))
    alone = sum(counted(seed, 5) for seed in seeds)
    np.testing.assert_array_equal(count_pairs(prediction, target, 5).numpy(), alone)


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        count_pairs(torch.tensor([0, 1]), torch.tensor([0]), 3)


VOCABULARY = Vocabulary("sky", ("sky", "sea", "sand"), frozenset(), 255, "Sky")


def evaluation_of(matrix):
    return Evaluation({"pred_all": ImageCounts.of_matrix(matrix)}, ("a",), 1, 0, 1, VOCABULARY, "objects")


def test_saving_and_loading_keeps_every_count(tmp_path):
    matrix = counted(3, 3, (50, 60))
    evaluation_of(matrix).save(tmp_path)
    np.testing.assert_array_equal(Evaluation.load(tmp_path, VOCABULARY).matrices["pred_all"], matrix)
    assert [path.name for path in tmp_path.iterdir()] == ["matrices.npz"]  # nothing temporary is left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.ones(1)}, "image_pred_all must hold int64 counts, not float64"),
        ({"pixels": np.ones(1, np.int32)}, "not int32"),
        ({"pixels": np.full(1, -1)}, "an image or a class that does not exist"),
        ({"index": np.array([[0], [4], [0]])}, "an image or a class that does not exist"),
        ({"index": np.array([[1], [0], [0]])}, "an image or a class that does not exist"),
    ],
)
def test_files_with_other_counts_are_refused(tmp_path, change, message):
    counts = ImageCounts.of_matrix(np.pad(np.full((1, 1), 7), (0, 3)))
    evaluation = evaluation_of(np.zeros((4, 4), np.int64))
    evaluation.per_image["pred_all"] = dataclasses.replace(counts, **change)
    evaluation.matrices = {"pred_all": np.zeros((4, 4), np.int64)}
    evaluation.save(tmp_path)
    with pytest.raises(MatrixFileError, match=message):
        Evaluation.load(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    path = evaluation_of(counted(0, 3)).save(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MatrixFileError, match=r"matrices\.npz cannot be read"):
        Evaluation.load(tmp_path)


def test_a_file_with_any_byte_changed_is_damaged_or_tells_the_same(tmp_path):
    counts = counted(0, 3)
    path = evaluation_of(counts).save(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with contextlib.suppress(MatrixFileError):
            assert np.array_equal(Evaluation.load(path).matrices.get("pred_all", counts), counts)
    np.save(tmp_path / "lone.npy", counts)
    with pytest.raises(MatrixFileError, match=r"lone\.npy cannot be read"):
        Evaluation.load(tmp_path / "lone.npy")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    evaluation_of(counted(0, 3)).save(tmp_path)

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", no_space)
    with pytest.raises(OSError, match="no space left"):
        evaluation_of(counted(1, 3)).save(tmp_path)
    np.testing.assert_array_equal(Evaluation.load(tmp_path).matrices["pred_all"], counted(0, 3))
    assert [item.name for item in tmp_path.iterdir()] == ["matrices.npz"]

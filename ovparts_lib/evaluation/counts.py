"""Confusion matrices: exact integer counts on the device, merged by addition, kept as npz.

A matrix is int64 (N+1, N+1) over N classes: rows are predictions and columns ground truth. Index N stands for
background or no prediction in a row, for no label in a column. Pixels without a label are counted too, in column N with
the prediction they got, so that protocols which treat them differently can all be computed afterwards.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovparts_lib.atomic import replacing

_COUNTS = "counts_"  # array names: counts_<mode>, so that other arrays of a file never collide with a mode


class MatrixFileError(ValueError):
    """A file of confusion matrices is unreadable, not int64, of an unexpected shape, or of another vocabulary."""


def count_pairs(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Confusion matrix of one picture, int64 (N+1, N+1) on the prediction's device.

    Args:
        prediction: integer tensor of any shape, 0..N; N = background.
        target: integer tensor of the same shape, 0..N; N = no label (see :func:`ovparts_lib.evaluation.to_target` for
            label maps with another ignore value).
        classes: N.

    Raises:
        ValueError: shapes differ, a tensor is not integer, or a value lies outside 0..N.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    for name, tensor in (("prediction", prediction), ("target", target)):
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} must hold integer class ids, not {tensor.dtype}")
        if tensor.numel():
            low, high = (int(value) for value in torch.aminmax(tensor))
            if low < 0 or high > classes:
                raise ValueError(f"{name} holds the value {low if low < 0 else high}, outside 0..{classes}")
    side = classes + 1
    # The product overflows narrow integers, so it is taken in int64.
    pairs = prediction.reshape(-1).long() * side + target.to(prediction.device).reshape(-1)
    return torch.bincount(pairs, minlength=side * side).reshape(side, side)


def write_matrices(
    path: Path | str,
    matrices: Mapping[str, np.ndarray],
    vocabulary_hash: str,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write named matrices, the hash of their vocabulary and further arrays as one npz, atomically."""
    path = Path(path)
    arrays = {_COUNTS + name: matrix for name, matrix in matrices.items()}
    arrays |= {"vocabulary_hash": np.array(vocabulary_hash), **(extra or {})}
    # An open file keeps numpy from appending ".npz" to the temporary name.
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_matrices(
    path: Path | str, vocabulary_hash: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read what :func:`write_matrices` wrote.

    Args:
        path: the npz file.
        vocabulary_hash: the hash expected; None accepts any.

    Returns:
        The matrices by name, and the other arrays, ``vocabulary_hash`` among them.

    Raises:
        MatrixFileError: unreadable, no matrix inside, not int64, negative, not square, or of another vocabulary.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MatrixFileError(f"{path} cannot be read as an npz file of confusion matrices: {error}") from error
    matrices = {name.removeprefix(_COUNTS): arrays.pop(name) for name in list(arrays) if name.startswith(_COUNTS)}
    if not matrices or "vocabulary_hash" not in arrays:
        raise MatrixFileError(f"{path} does not hold confusion matrices with a vocabulary hash")
    found = str(arrays["vocabulary_hash"])
    if vocabulary_hash is not None and found != vocabulary_hash:
        raise MatrixFileError(f"{path} belongs to the vocabulary {found}, not to {vocabulary_hash}")
    for name, array in matrices.items():
        if array.dtype != np.int64 or array.ndim != 2 or array.shape[0] != array.shape[1] or (array < 0).any():
            raise MatrixFileError(
                f"{path}: matrix {name!r} must be square int64 counts, not {array.dtype} {array.shape}; "
                "counts kept as floats are not exact"
            )
    return matrices, arrays

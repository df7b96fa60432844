"""Confusion matrices: exact integer counts on the device, merged by addition, kept as npz."""

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


class ConfusionMatrix:
    """Pixel counts of (prediction, ground truth) pairs over N classes and the background.

    Rows are predictions and columns ground truth. Index N stands for background or no prediction in a row, for no label
    in a column. Pixels without a label are counted too, in column N with the prediction they got, so that
    protocols which treat them differently can all be computed afterwards.

    Args:
        classes: N.
        device: where counting happens.
        counts: int64 (N+1, N+1) to start from; zeros if left out.

    Attributes:
        classes: N.
        counts: int64 (N+1, N+1) on the device.
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu", counts: Tensor | None = None) -> None:
        shape = (classes + 1, classes + 1)
        if counts is None:
            counts = torch.zeros(shape, dtype=torch.int64, device=device)
        elif counts.dtype != torch.int64 or tuple(counts.shape) != shape:
            raise ValueError(
                f"confusion counts of {classes} classes must be int64 {shape}, not {counts.dtype} {tuple(counts.shape)}"
            )
        self.classes = classes
        self.counts = counts.to(device)

    def update(self, prediction: Tensor, target: Tensor, *, weight: int = 1) -> Tensor:
        """Count the pixels of one picture.

        Args:
            prediction: integer tensor of any shape, 0..N; N = background.
            target: integer tensor of the same shape, 0..N; N = no label (see :func:`ovparts_lib.evaluation.to_target`
                for label maps with another ignore value).
            weight: how often the picture counts.

        Returns:
            The counts that were added, int64 (N+1, N+1), already multiplied by ``weight``.

        Raises:
            ValueError: shapes differ, a tensor is not integer, or a value lies outside 0..N.
        """
        counts = count_pairs(prediction, target, self.classes) * weight
        self.counts += counts.to(self.counts.device)
        return counts

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if self.classes != other.classes:
            raise ValueError(f"confusion matrices of {self.classes} and {other.classes} classes cannot be added")
        device = self.counts.device
        return ConfusionMatrix(self.classes, device, self.counts + other.counts.to(device))

    def numpy(self) -> np.ndarray:
        """A copy of the counts on the host, int64 (N+1, N+1)."""
        return self.counts.cpu().numpy().copy()


def count_pairs(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Joint histogram of two integer tensors with values 0..N: int64 (N+1, N+1), rows prediction, columns target.

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
    matrices: Mapping[str, ConfusionMatrix],
    vocabulary_hash: str,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write named matrices, the hash of their vocabulary and further arrays as one npz, atomically."""
    path = Path(path)
    arrays = {_COUNTS + name: matrix.numpy() for name, matrix in matrices.items()}
    arrays |= {"vocabulary_hash": np.array(vocabulary_hash), **(extra or {})}
    # An open file keeps numpy from appending ".npz" to the temporary name.
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_matrices(
    path: Path | str, vocabulary_hash: str | None = None
) -> tuple[dict[str, ConfusionMatrix], dict[str, np.ndarray]]:
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
    counts = {name.removeprefix(_COUNTS): arrays.pop(name) for name in list(arrays) if name.startswith(_COUNTS)}
    if not counts or "vocabulary_hash" not in arrays:
        raise MatrixFileError(f"{path} does not hold confusion matrices with a vocabulary hash")
    found = str(arrays["vocabulary_hash"])
    if vocabulary_hash is not None and found != vocabulary_hash:
        raise MatrixFileError(f"{path} belongs to the vocabulary {found}, not to {vocabulary_hash}")
    matrices = {}
    for name, array in counts.items():
        if array.dtype != np.int64 or array.ndim != 2 or array.shape[0] != array.shape[1] or (array < 0).any():
            raise MatrixFileError(
                f"{path}: matrix {name!r} must be square int64 counts, not {array.dtype} {array.shape}; "
                "counts kept as floats are not exact"
            )
        matrices[name] = ConfusionMatrix(array.shape[0] - 1, counts=torch.from_numpy(array))
    return matrices, arrays

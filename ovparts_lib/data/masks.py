"""A user's own masks of one picture, from whatever made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovparts_lib.data.files import list_files
from ovparts_lib.data.labels import opened
from ovparts_lib.data.records import DatasetError

_WHAT = "Give a folder of PNG files, one mask each (0 outside, any other single value inside), or a .npy or .npz array."


def read_masks(path: Path, size: tuple[int, int]) -> Tensor:
    """Masks of a picture, as segment-anything and others write them.

    Args:
        path: a folder of PNG files, one mask each, taken in the order of their names; or a ``.npy`` file, or a ``.npz``
            file of one array, (k, H, W) or (H, W), of bools or of 0 and another value.
        size: (height, width) of the picture.

    Returns:
        Bool (k, H, W), at least one.

    Raises:
        DatasetError: nothing there, a file that is no mask, one without a pixel, or one of another size.
    """
    if path.is_dir():
        files = list_files(path, (".png",))
        if not files:
            raise DatasetError("holds no PNG file", file=path, what_to_do=_WHAT)
        return torch.stack([_mask(_read_png(file), size, file) for file in files.values()])
    if not path.is_file():
        raise DatasetError("there are no masks here", file=path, what_to_do=_WHAT)
    try:
        stored = np.load(path, allow_pickle=False)
        names = [] if isinstance(stored, np.ndarray) else stored.files
        stored = stored[names[0]] if len(names) == 1 else stored
    except Exception as error:  # whatever numpy, zipfile and zlib stumble over in a damaged file
        why = "it holds Python objects" if "allow_pickle" in str(error) else error
        raise DatasetError(f"is no array of numbers: {why}", file=path, what_to_do=_WHAT) from error
    if not isinstance(stored, np.ndarray):
        raise DatasetError(f"must hold one array, not {', '.join(names) or 'none'}", file=path, what_to_do=_WHAT)
    stored = stored[None] if stored.ndim == 2 else stored
    if stored.ndim != 3 or not len(stored):
        raise DatasetError(f"is an array of shape {stored.shape}, not (k, H, W)", file=path, what_to_do=_WHAT)
    return torch.stack([_mask(mask, size, path, f"mask {number}: ") for number, mask in enumerate(stored)])


def _read_png(file: Path) -> np.ndarray:
    with opened(file) as picture:
        return np.array(picture)


def _mask(values: np.ndarray, size: tuple[int, int], file: Path, which: str = "") -> Tensor:
    if values.ndim == 3 and values.shape[2] in (2, 4):
        if not np.isin(values[..., -1], (0, 255)).all():
            raise DatasetError(f"{which}is transparent in part", file=file, what_to_do=_WHAT)
        values = np.where(values[..., -1:], values[..., :-1], 0)  # what cannot be seen is outside
    if values.ndim == 3 and values.shape[2] in (1, 3) and (values == values[..., :1]).all():
        values = values[..., 0]  # a grey picture saved in colour
    if values.ndim != 2 or not (values.dtype == bool or np.issubdtype(values.dtype, np.number)):
        raise DatasetError(f"{which}is no mask but a picture in colour", file=file, what_to_do=_WHAT)
    if values.shape != size:
        raise DatasetError(
            f"{which}is {values.shape[1]} x {values.shape[0]} pixels, the picture {size[1]} x {size[0]}",
            file=file,
            what_to_do="Make the masks from the very file that is looked at, at its size.",
        )
    inside = np.unique(values[values != 0])
    if len(inside) == 1 and not np.isfinite(inside[0]):
        raise DatasetError(f"{which}holds no finite value beside 0", file=file, what_to_do=_WHAT)
    if len(inside) != 1:
        problem = "is empty" if not len(inside) else f"holds {len(inside)} values beside 0"
        raise DatasetError(f"{which}{problem}", file=file, what_to_do=_WHAT)
    return torch.from_numpy(values != 0)

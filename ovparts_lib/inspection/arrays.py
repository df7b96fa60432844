"""Pictures and label maps as arrays of the form and size that figures show."""

import numpy as np
from torch import Tensor

Picture = Tensor | np.ndarray
"""An image as readers give it, uint8 (3, H, W), or an array uint8 (H, W, 3)."""
LabelMap = Tensor | np.ndarray
"""Class ids, any integer type (H, W)."""


def as_picture(image: Picture) -> np.ndarray:
    """uint8 (H, W, 3) from an image as readers give it, (3, H, W), or from one that has this form already.

    Raises:
        ValueError: not an 8-bit RGB image.
    """
    array = _as_array(image)
    if array.ndim == 3 and (isinstance(image, Tensor) or (array.shape[0] == 3 and array.shape[2] != 3)):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image must be uint8, (3, H, W) or an array (H, W, 3), not {array.dtype} {array.shape}")
    return array


def panel_picture(image: Picture, longest: int = 480) -> np.ndarray:
    """uint8 (h, w, 3): every k-th pixel of an image, so that no side is longer than ``longest``."""
    return thinned(as_picture(image), longest)


def thinned(array: np.ndarray, longest: int) -> np.ndarray:
    """Every k-th row and column of (H, W, ...), k the least by which no side is longer than ``longest``."""
    step = -(-max(array.shape[:2]) // longest)
    return array[::step, ::step]


def panel_aspect(picture: np.ndarray) -> float:
    """Height over width of the panel that shows a picture: the picture's own, within 1:5 and 5:2."""
    return float(np.clip(picture.shape[0] / picture.shape[1], 0.2, 2.5))


def as_labels(label_map: LabelMap, size: tuple[int, int]) -> np.ndarray:
    """int64 (H, W) from a label map of any integer type.

    Raises:
        ValueError: not a label map, or not of the picture's size.
    """
    array = _as_array(label_map)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"a label map must be integer (H, W), not {array.dtype} {array.shape}")
    if array.shape != tuple(size):
        raise ValueError(f"the label map is {array.shape}, the picture {tuple(size)} (height, width)")
    return array.astype(np.int64)


def _as_array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)

"""Figures that leave the notebook's style alone, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import ParamSpec

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ovparts_lib.atomic import replacing

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "hatch.linewidth": 0.7,
    "image.interpolation": "antialiased",
}

_P = ParamSpec("_P")


class NotebookFigure(Figure):
    """A figure that pyplot does not know, and that notebooks show as a picture without pyplot's help.

    It is shown once, as the value of a cell or by ``display``, and freed with its last reference: nothing to close.
    """

    def _repr_png_(self) -> bytes:
        return figure_png(self, self.dpi)


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw in the workbook's style without changing anybody's settings."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with style.context(["default", _STYLE]):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float, *, pictures: bool = False) -> Figure:
    """An empty figure, in inches at 100 dots per inch; ``pictures`` packs panels closely."""
    figure = NotebookFigure(figsize=(width, height), dpi=100, layout="compressed" if pictures else "constrained")
    FigureCanvasAgg(figure)
    return figure


@contextmanager
def layout_later(figure: Figure) -> Iterator[None]:
    """Lay a figure out once, at the end: seaborn's heat maps draw the whole figure each time to measure labels."""
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine("constrained")


def save_figure(figure: Figure, path: Path | str, data: pd.DataFrame | None = None, *, dpi: int = 150) -> list[Path]:
    """Write a figure as PNG and its data as CSV of the same name, each of them whole or not at all.

    Returns:
        The files written.

    Raises:
        ValueError: the path does not end in ``.png``.
        OSError: no space or no permission; files of the same name that were there before are intact.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"figures are saved as .png, not {path.name!r}")
    picture = figure_png(figure, dpi)
    with replacing(path) as partial:
        partial.write_bytes(picture)
    if data is None:
        return [path]
    table = path.with_suffix(".csv")
    with replacing(table) as partial:
        # A named index is part of the data (rows of a matrix); a plain one only counts lines.
        data.to_csv(partial, index=data.index.name is not None)
    return [path, table]


def figure_png(figure: Figure, dpi: float = 100) -> bytes:
    """The figure as the bytes of a PNG file, empty margins cut."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()


def save_picture(picture: np.ndarray, path: Path | str) -> Path:
    """Write uint8 (H, W, 3) at full size, PNG or JPEG by the ending of ``path``."""
    path = Path(path)
    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")
    return path


def as_picture(image: Tensor | np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) from an image as readers give it, (3, H, W), or from one that has this form already.

    Raises:
        ValueError: not an 8-bit RGB image.
    """
    array = _as_array(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (3, H, W) or (H, W, 3), not {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)


def panel_picture(image: Tensor | np.ndarray, longest: int = 480) -> np.ndarray:
    """uint8 (h, w, 3): every k-th pixel of an image, so that no side is longer than ``longest``."""
    picture = as_picture(image)
    step = -(-max(picture.shape[:2]) // longest)
    return picture[::step, ::step]


def as_labels(label_map: Tensor | np.ndarray, size: tuple[int, int]) -> np.ndarray:
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

"""Panels, and their figures, which leave the notebook's style alone, and their files."""

import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ovparts_lib.atomic import write_atomically
from ovparts_lib.inspection.arrays import panel_aspect

# Its fonts are looked through in turn for characters that the user's lack; those not installed are passed over.
_STYLE = mpl.rc_params_from_file(Path(__file__).with_name("workbook.mplstyle"), use_default_template=False)
_GLYPH = re.compile(r"Glyph (\d+) .*missing from")
_LONGEST_SIDE = 100.0  # inches
_TICK, _LEGEND = 28, 48  # characters of a tick's name, and of a line in a legend
_TALLEST_PANEL = 5.0  # inches
_SAVED_DPI = 150
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green and blue

_P = ParamSpec("_P")


@dataclass(frozen=True)
class Panel:
    """A figure and its data, or a table alone.

    Attributes:
        name: of its files in the run folder; may hold a user's text.
        figure: None for a table alone.
        table: data behind the figure; an empty table without a figure is nothing to show.
        title: one line.
        caption: what is seen, or why there is nothing to see.
    """

    name: str
    figure: Figure | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    title: str = ""
    caption: str = ""


class NotebookFigure(Figure):
    """A figure that pyplot does not know, and that notebooks show as a picture without pyplot's help.

    It is shown once, as the value of a cell or by ``display``, and freed with its last reference: nothing to close.

    Attributes:
        layout_kind: matplotlib's layout engine for it, which :func:`styled` sets when everything is drawn.
    """

    layout_kind: str

    def _repr_png_(self) -> bytes:
        return figure_png(self, self.dpi)


def styled(draw: Callable[_P, Panel]) -> Callable[_P, Panel]:
    """Draw a panel in the workbook's style, with labels that fit, without changing anybody's settings."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Panel:
        with style.context(workbook_style()):
            panel = draw(*args, **kwargs)
            if panel.figure is not None:
                _fit_labels(panel.figure)
                panel.figure.set_layout_engine(panel.figure.layout_kind)
            return panel

    return drawn


def workbook_style() -> list[Any]:
    """The workbook's style with the user's font in front and fallbacks for the characters it lacks behind."""
    return ["default", {**_STYLE, "font.family": list(_families(tuple(mpl.rcParams["font.family"])))}]


@lru_cache(maxsize=4)
def _families(chosen: tuple[str, ...]) -> tuple[str, ...]:
    installed = set(font_manager.get_font_names())
    expanded = [name for family in chosen for name in mpl.rcParams.get(f"font.{family}", [family])]
    return tuple(dict.fromkeys(name for name in (*expanded, *_STYLE["font.family"]) if name in installed))


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """A text on a few lines of ``width`` characters (wide ones count twice), the rest cut with an ellipsis."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    width = max(4, round(width * len(text) / max(1, len(text) + wide)))
    # A lone surrogate (from a file name that is not UTF-8) cannot be drawn.
    clean = " ".join(text.encode("utf-8", "replace").decode().split())
    rows = textwrap.wrap(clean, width)
    if len(rows) > lines:
        rows = [*rows[: lines - 1], f"{rows[lines - 1][: width - 1].rstrip()}…"]
    return "\n".join(rows)


def _fit_labels(figure: Figure) -> None:
    """Wrap and shorten what a user's words make too long: titles, names of ticks, legends."""
    for ax in figure.axes:
        # Before it is laid out: panels grow into the margins, and a title may reach over its panel's edges.
        width = 1.25 * ax.get_position(original=True).width * figure.get_figwidth()
        for title in (ax.title, ax._left_title):
            title.set_text(_fitted(title.get_text(), width, title.get_fontsize()))
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(axis.get_major_locator(), FixedLocator):
                names = [label.get_text() for label in axis.get_ticklabels()]
                if max(map(len, names), default=0) > _TICK:
                    axis.set_ticklabels([_cut(name, _TICK) for name in names])
    if figure._suptitle is not None:
        figure.suptitle(_fitted(figure.get_suptitle(), figure.get_figwidth(), figure._suptitle.get_fontsize()))
    legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))]
    for text in (text for legend in legends for text in legend.get_texts()):
        text.set_text("\n".join(_cut(line, _LEGEND) for line in text.get_text().split("\n")))


def _fitted(text: str, inches: float, size: float) -> str:
    """Each line of a text on at most two lines of a width, in letters of a size in points."""
    width = max(12, int(72 * inches / (0.5 * size)))  # a letter is about half as wide as high
    return "\n".join(wrapped(_cut(line, 2 * width - 8), width) for line in text.split("\n"))


def _cut(text: str, length: int) -> str:
    """A text of at most ``length`` characters, cut before its end, where numbers stand."""
    return text if len(text) <= length else f"{text[: length - 15].rstrip()} … {text[-12:].lstrip()}"


def new_figure(width: float, height: float, *, pictures: bool = False) -> NotebookFigure:
    """An empty figure, in inches at 100 dots per inch; ``pictures`` packs panels closely. No side exceeds 100."""
    size = (min(width, _LONGEST_SIDE), min(height, _LONGEST_SIDE))
    figure = NotebookFigure(figsize=size, dpi=100, layout="compressed" if pictures else "constrained")
    FigureCanvasAgg(figure)
    # Laid out once, at the end: seaborn's heat maps draw the whole figure each time to measure labels.
    figure.set_layout_engine("none")
    figure.layout_kind = "compressed" if pictures else "constrained"
    return figure


def picture_panels(
    count: int, columns: int, picture: np.ndarray, *, width: float = 2.75, gap: float = 0.45
) -> tuple[Figure, np.ndarray]:
    """A grid of panels for one picture, without axes.

    Args:
        count: panels.
        columns: panels side by side, if there are as many.
        picture: uint8 (h, w, 3), whose shape the panels have.
        width: of a panel in inches; less where the figure would be wider than a notebook.
        gap: height between panels, for titles.

    Returns:
        The figure and its axes (rows, columns).
    """
    columns = max(1, min(columns, count))
    rows, total = -(-count // columns), min(11.0, width * columns + 0.2)
    panel = min(total / columns * panel_aspect(picture), _TALLEST_PANEL)
    figure = new_figure(total, rows * (panel + gap) + 0.2, pictures=True)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    return figure, axes


def named_heatmap(ax: Axes, table: pd.DataFrame, numbers: pd.DataFrame, *, cmap: str, size: float) -> QuadMesh:
    """A heat map of percentages with the name of every row and column, those below slanted.

    Seaborn's draws the whole figure for each of its panels, to see whether labels overlap.

    Args:
        ax: where.
        table: percentages; NaN stays empty.
        numbers: what is written into the cells, as text of the table's shape.
        cmap: colour map.
        size: of the numbers, in points.

    Returns:
        The coloured cells, for a colour bar.
    """
    mesh = ax.pcolormesh(table.to_numpy(float), vmin=0, vmax=100, cmap=cmap, edgecolors="#E4E4E4", linewidth=0.4)
    mesh.update_scalarmappable()
    for place, text in np.ndenumerate(numbers.to_numpy()):
        if text:
            colour = mesh.get_facecolors()[np.ravel_multi_index(place, table.shape)]
            dark = colour[:3] @ _BRIGHTNESS < 0.5
            colours = {"color": "white" if dark else ".15"}
            ax.text(place[1] + 0.5, place[0] + 0.5, text, size=size, ha="center", va="center", **colours)
    ax.set(xlabel="", ylabel="", ylim=(len(table), 0))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    slanted = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(np.arange(table.shape[1]) + 0.5, [str(name) for name in table.columns], **slanted)
    ax.set_yticks(np.arange(len(table)) + 0.5, [str(name) for name in table.index])
    return mesh


def save_figure(figure: Figure, path: Path, data: pd.DataFrame) -> bytes:
    """Write a figure as PNG and its data as CSV of the same name, each of them whole or not at all.

    Returns:
        The bytes of the PNG.

    Raises:
        OSError: no space or no permission; files of the same name that were there before are intact.
    """
    picture = figure_png(figure, _SAVED_DPI)
    write_atomically(path, picture)
    # A named index is part of the data (rows of a matrix); a plain one only counts lines.
    write_atomically(path.with_suffix(".csv"), data.to_csv(index=data.index.name is not None))
    return picture


def figure_png(figure: Figure, dpi: float = 100) -> bytes:
    """The figure as the bytes of a PNG file, empty margins cut; a warning names characters that no font has."""
    buffer = BytesIO()
    with warnings.catch_warnings(record=True) as caught, style.context(workbook_style()):
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08)
    glyphs = {chr(int(found[1])) for one in caught if (found := _GLYPH.match(str(one.message)))}
    for one in caught:
        if not _GLYPH.match(str(one.message)):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if glyphs:
        warnings.warn(
            f"no installed font has the characters {''.join(sorted(glyphs))}, which are drawn as boxes; install one "
            "that has them (for Chinese, Japanese and Korean: Noto Sans CJK, Debian's fonts-noto-cjk) and start the "
            "kernel anew, or name one in matplotlib's font.family",
            stacklevel=2,
        )
    return buffer.getvalue()

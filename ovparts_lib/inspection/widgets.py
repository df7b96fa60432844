"""A small viewer: a slider over pictures, menus for what to show; plain figures where nobody can move a slider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure

from ovparts_lib.inspection.figures import figure_png
from ovparts_lib.progress_bar import is_attended

_DPI = 160  # of the viewer's picture


def browse(draw: Callable[..., Figure], pictures: Sequence[str], **menus: Sequence[Any]) -> ipywidgets.VBox | None:
    """Look through figures that are drawn when they are asked for, where a person runs the notebook.

    An executed notebook keeps figures but not what a slider would show, so the first figure stays in it.

    Args:
        draw: ``draw(index, **chosen)`` gives the figure of a picture, with one value of each menu.
        pictures: their names.
        menus: values to choose from, by the name of ``draw``'s argument: ``browse(draw, names, layer=[0, 1, 2])``.

    Returns:
        The viewer; None where the figure of the first picture, with the first value of each menu, was displayed.
    """
    if is_attended():
        return _viewer(draw, pictures, menus)
    display(draw(0, **{name: values[0] for name, values in menus.items()}))
    return None


def _viewer(draw: Callable[..., Figure], pictures: Sequence[str], menus: dict[str, Sequence[Any]]) -> ipywidgets.VBox:
    slider = ipywidgets.IntSlider(
        max=len(pictures) - 1, description="picture", continuous_update=False, readout=False, layout={"width": "28em"}
    )
    name = ipywidgets.Label()
    choices = {
        key: ipywidgets.Dropdown(options=[(str(value), value) for value in values], description=key.replace("_", " "))
        for key, values in menus.items()
    }
    # At its own size: left to stretch, a small picture fills the notebook's width.
    screen = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})

    def show(_change: object = None) -> None:
        figure = draw(slider.value, **{key: choice.value for key, choice in choices.items()})
        name.value, screen.value = pictures[slider.value], figure_png(figure, _DPI)

    for control in (slider, *choices.values()):
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([slider, name]), ipywidgets.HBox(list(choices.values())), screen])

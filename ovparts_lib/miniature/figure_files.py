"""Reading the figures from their descriptions, ``figures/*.yaml``; the ``README.md`` there explains the keys."""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import numpy as np
import yaml

from ovparts_lib.miniature import shapes
from ovparts_lib.miniature.figure import COLOUR_FAMILIES, TEXTURES, Figure, Part, Slot, Tint, View

FOLDER = Path(__file__).with_name("figures")
SHAPES = {
    name: getattr(shapes, name)
    for name in ("blob", "box", "curl", "drop", "ellipse", "foot", "horn", "limb", "poly", "ring", "spike", "spokes",
                 "tube", "wool")
}  # fmt: skip
Item = TypeVar("Item")


@cache
def load_figures(folder: Path = FOLDER) -> dict[str, Figure]:
    """The figures of all files of a folder by name, in alphabetical order.

    Raises:
        ValueError: a description cannot be drawn; the message names file, figure, view, part and what is wrong.
    """
    figures = {}
    for path in sorted(folder.glob("*.yaml")):
        with _within(path.name):
            content = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            outlines: dict[str, np.ndarray] = {}
            for name, shape in content.get("outlines", {}).items():
                with _within(f"outline {name!r}"):
                    outlines[name] = _outline(shape, outlines)
            for name, entry in content["figures"].items():
                with _within(name):
                    figures[name] = _figure(name, entry, outlines, content.get("groups", {}))
    return dict(sorted(figures.items()))


def _figure(name: str, entry: dict[str, Any], outlines: Mapping[str, np.ndarray], groups: Mapping[str, list]) -> Figure:
    colours: dict[str, Slot] = {}
    for slot, choice in entry["colours"].items():
        with _within(f"colour {slot!r}"):
            colours[slot] = _colour_slot(choice, colours)
    views = []
    for number, view in enumerate(entry["views"], 1):
        with _within(f"view {number}"):
            parts = [_part(values, outlines, colours) for values in _expand(view["parts"], groups, {})]
            views.append(_make(View, view | {"parts": parts}))
    for texture in entry.get("textures", ()):
        _find(TEXTURES, texture, "texture")
    return _make(Figure, entry | {"name": name, "views": views, "colours": colours})


def _colour_slot(choice: list[str] | dict[str, Any], earlier: Mapping[str, Slot]) -> Slot:
    if isinstance(choice, list):
        return tuple(_find(COLOUR_FAMILIES, family, "colour") for family in choice)
    tint = _make(Tint, choice)
    _find(earlier, tint.slot, "slot")
    return tint


def _expand(entries: list[dict[str, Any]], groups: Mapping[str, list], parameters: dict) -> Iterator[dict[str, Any]]:
    """The values of each part; a group's parts take its place, with the values it was given as their parameters."""
    for entry in entries:
        with _within(f"part {entry.get('key', entry.get('group'))!r}"):
            values = {key: _fill(value, parameters) for key, value in entry.items()}
            if "group" in values:
                _find(groups, values["group"], "group")
                yield from _expand(groups[values["group"]], groups, parameters | values)
            else:
                yield values


def _fill(value: Any, parameters: Mapping[str, Any]) -> Any:
    """A value with its ``$`` parameters filled in: ``$at`` is any value, ``0.5 $size`` a product, others are texts."""
    if isinstance(value, list):
        return [_fill(item, parameters) for item in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    if value.startswith("$") and value[1:] in parameters:
        return parameters[value[1:]]
    try:
        text = Template(value).substitute(parameters)
    except KeyError as error:
        raise ValueError(f"its group is used without {error}") from error
    try:
        return math.prod(float(factor) for factor in text.split())
    except ValueError:
        return text


def _part(values: dict[str, Any], outlines: Mapping[str, np.ndarray], colours: Mapping[str, Slot]) -> Part:
    with _within(f"part {values.get('key')!r}"):
        # Without a size, an outline is in the figure's own units and does not vary.
        defaults = {"label": values["key"]} | ({} if "size" in values else {"size": (1.0, 1.0), "vary": 0.0})
        part = _make(Part, defaults | values | {"shape": _outline(values["shape"], outlines)})
        _find(colours, part.paint, "paint")
        return part


def _outline(shape: str | dict[str, list], outlines: Mapping[str, np.ndarray]) -> np.ndarray:
    """A shape by its word and numbers (``limb 0.8``), by its points (``{poly: [[0, 0], …]}``) or by a name."""
    if isinstance(shape, dict):
        ((word, points),) = shape.items()
        return SHAPES[_find(SHAPES, word, "shape")](tuple(map(tuple, points)))
    if shape in outlines:
        return outlines[shape]
    word, *numbers = shape.split()
    return SHAPES[_find((*SHAPES, *outlines), word, "shape")](*(int(n) if n.isdigit() else float(n) for n in numbers))


def _make(kind: type[Item], values: Mapping[str, Any]) -> Item:
    for key in values:
        _find([field.name for field in fields(kind)], key, "key")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _find(known: Collection[str], name: str, what: str) -> str:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(known)}")
    return name


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Say in an error where it is."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{place}: {error} is missing") from error
    except (TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{place}: {error}") from error

"""Colours of classes: the same for a name wherever it occurs, and apart for colour-blind eyes."""

import hashlib

import numpy as np
from matplotlib.colors import to_rgb

from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

SEEN, UNSEEN = "#0072B2", "#E69F00"  # blue and orange of Okabe and Ito (2008), safe for all common colour blindness
HATCH = "////"  # marks unseen objects where colour alone would have to
RIGHT, WRONG, UNLABELLED = (0, 158, 115), (213, 48, 20), (150, 150, 150)

# 18 sRGB colours by farthest-point selection in OKLab: pairs are at least 0.14 apart for normal vision and 0.077 as
# deuteranopes and protanopes see them (Machado et al. 2009); 0.02 is just noticeable.
# fmt: off
_SLOTS = (
    "#AC697E", "#82FA2A", "#0FF6F1", "#0A42E7", "#954D05", "#D2A408", "#F134B7", "#32C3B3", "#8424B0",
    "#0C8BBB", "#669014", "#CFE19D", "#F47B76", "#575A7F", "#6E67F8", "#9EC7FE", "#A61859", "#BE84FF",
)

# Linear sRGB -> LMS, LMS^(1/3) -> OKLab (Ottosson 2020).
_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])
# fmt: on


def class_colours(vocabulary: Vocabulary) -> np.ndarray:
    """A colour per class that depends on names only, not on their order or on other objects.

    A part has a preferred colour regardless of its object, so that "dog's head" and "cat's head" look related; the
    object shifts all its parts a little in lightness and hue. Parts of one object never share a colour: in alphabetical
    order, each takes the first of its own preferences that is still free. Words without an object count as parts of one
    object.

    Returns:
        uint8 (N, 3), sRGB, in label order.
    """
    names = vocabulary.classes
    pairs = vocabulary.pairs if isinstance(vocabulary, PartVocabulary) else zip(names, names, strict=True)
    siblings: dict[str, list[tuple[str, str]]] = {}
    for name, (owner, part) in zip(names, pairs, strict=True):
        siblings.setdefault("" if owner == part else owner, []).append((name, part))
    colours = {}
    for family, members in siblings.items():
        taken: list[int] = []
        for name, part in sorted(members):
            slot = _first_free(part, taken)
            colours[name] = _tinted(slot, family, crowding=taken.count(slot))
            taken.append(slot)
    return np.array([colours[name] for name in names], dtype=np.uint8).reshape(-1, 3)


def _first_free(generic: str, taken: list[int]) -> int:
    """The slot the name likes best among those used least."""
    return min(range(len(_SLOTS)), key=lambda slot: (taken.count(slot), _number(f"{generic}|{slot}")))


def _tinted(slot: int, family: str, crowding: int) -> np.ndarray:
    """The slot's colour, shifted by the object; a slot used a second or third time is also lighter or darker."""
    lightness, chroma, hue = _to_oklch(np.array(to_rgb(_SLOTS[slot])))
    if family:
        lightness += 0.05 * (_number(f"{family}|lightness") - 0.5)
        hue += np.radians(16) * (_number(f"{family}|hue") - 0.5)
    lightness += (0.0, -0.13, 0.11)[crowding % 3]
    return np.round(255 * _from_oklch(np.clip(lightness, 0.3, 0.95), chroma, hue)).astype(np.uint8)


def _number(text: str) -> float:
    """A number in [0, 1) that depends on the text alone (unlike ``hash``, which differs between processes)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _to_oklch(rgb: np.ndarray) -> tuple[float, float, float]:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness, a, b = _TO_LAB @ np.cbrt(_TO_LMS @ linear)
    return float(lightness), float(np.hypot(a, b)), float(np.arctan2(b, a))


def _from_oklch(lightness: float, chroma: float, hue: float) -> np.ndarray:
    """Red, green and blue in [0, 1]; chroma gives way where the colour cannot be shown."""
    for shown in np.linspace(chroma, 0, 60):
        lab = np.array([lightness, shown * np.cos(hue), shown * np.sin(hue)])
        linear = np.linalg.solve(_TO_LMS, np.linalg.solve(_TO_LAB, lab) ** 3)
        if linear.min() >= -1e-4 and linear.max() <= 1 + 1e-4:
            break
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)

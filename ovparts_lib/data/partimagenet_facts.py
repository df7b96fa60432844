"""What PartImageNet's files say in numbers and codes: part categories and ImageNet synsets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from ovparts_lib.data.files import read_file
from ovparts_lib.data.records import DatasetError

SYNSET_FILE = "LOC_synset_mapping.txt"
_FACTS = json.loads(files(__package__).joinpath("partimagenet.json").read_text(encoding="utf-8"))

# Names of the part categories by their id in the annotation files: a family of objects, and the part.
PART_CATEGORIES: tuple[str, ...] = tuple(_FACTS["part_categories"])
# Object of each synset, for the objects of both selections.
SYNSETS: dict[str, str] = dict(_FACTS["synsets"])
# Family of each object of the 40-object selection, as its released preprocessing states it.
FAMILIES: dict[str, str] = dict(_FACTS["families"])


def generic_part(category_id: int) -> str:
    """``"Car Side Mirror"`` -> ``"side mirror"``: what follows the family, in lower case."""
    return PART_CATEGORIES[category_id].partition(" ")[2].lower()


def family(category_id: int) -> str:
    """``"Car Side Mirror"`` -> ``"Car"``."""
    return PART_CATEGORIES[category_id].partition(" ")[0]


def families_of(name: str, generic_parts: Iterable[str]) -> frozenset[str]:
    """The families that an object may belong to.

    Args:
        name: of the object.
        generic_parts: its parts, such as ``"head"``. For objects outside the 40-object selection no family is
            released; their parts tell it, except that quadrupeds and reptiles have the same four.
    """
    if name in FAMILIES:
        return frozenset({FAMILIES[name]})
    parts: dict[str, set[str]] = {}
    for category_id in range(len(PART_CATEGORIES)):
        parts.setdefault(family(category_id), set()).add(generic_part(category_id))
    return frozenset(one for one, own in parts.items() if own == set(generic_parts))


def read_synset_file(path: Path) -> dict[str, str]:
    """``{synset: first name}`` of ImageNet's list, whose lines are ``n02129604 tiger, Panthera tigris``.

    Raises:
        DatasetError: the file is missing, or a line is not of this form, or repeats a synset.
    """
    try:
        lines = read_file(path, "Give the path of ImageNet's synset list.").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"cannot be read ({error})", file=path, what_to_do="Download it again.") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        synset, _, rest = line.strip().partition(" ")
        if not synset:
            continue
        name = rest.split(",")[0].strip()
        if not name or synset in names or not (synset[0] == "n" and synset[1:].isdigit()):
            what = f"line {number} is {line.strip()[:60]!r}, not a new synset and its names"
            raise DatasetError(what, file=path, what_to_do="Download LOC_synset_mapping.txt again.")
        names[synset] = name
    return names

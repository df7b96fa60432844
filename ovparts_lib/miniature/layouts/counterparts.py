"""What the drawn objects and parts are called in datasets other than Pascal-Part-116 (``counterparts.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from ovparts_lib.miniature.canvas import NOTHING
from ovparts_lib.miniature.figure import Piece, Pose
from ovparts_lib.vocabularies import PartVocabulary


@dataclass(frozen=True)
class Counterpart:
    """An object of another dataset that a figure is drawn as.

    Attributes:
        name: of the object there.
        parts: ``{word of a piece: generic part there}``.
    """

    name: str
    parts: Mapping[str, str]


Table = Mapping[str, Counterpart]


def _read_tables() -> dict[str, Table]:
    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

    def counterpart(name: str, parts: dict[str, list[str]]) -> Counterpart:
        return Counterpart(name, {word: part for part, words in parts.items() for word in words})

    return {
        dataset: {figure: counterpart(**entry) for figure, entry in table.items()} for dataset, table in content.items()
    }


TABLES: Mapping[str, Table] = _read_tables()


@cache
def drawn_words(dataset: str) -> PartVocabulary:
    """The objects and parts that are drawn for a dataset, under its names; what label maps of a drawing hold."""
    table = TABLES[dataset].values()
    parts = dict.fromkeys(f"{entry.name}'s {part}" for entry in table for part in entry.parts.values())
    return PartVocabulary(f"drawn_{dataset}", tuple(parts), tuple(entry.name for entry in table), ignore_label=NOTHING)


def rename(pose: Pose, table: Table) -> Pose:
    """A posed figure under the names of another dataset; pieces keep their shapes, colours and order."""
    entry = table[pose.name]
    pieces = tuple(replace(piece, label=entry.parts.get(_word(piece))) for piece in pose.pieces)
    return replace(pose, name=entry.name, pieces=pieces)


def _word(piece: Piece) -> str:
    return piece.key.split()[0] if piece.label is None else piece.label

"""What the drawn objects and parts are called in datasets other than Pascal-Part-116.

A figure stands for one object of the other dataset. Its pieces are named by their Pascal part, or, where Pascal has no
part for them (the legs of a chair, the hull of a boat), by the first word of the piece's own name. A word that is not
in the table is drawn as a piece of the object that belongs to no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

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


def _words(**parts: str) -> dict[str, str]:
    """``_words(foot="leg paw")`` -> ``{"leg": "foot", "paw": "foot"}``; ``_`` stands for a space in a part's name."""
    return {word.replace("_", " "): part.replace("_", " ") for part, words in parts.items() for word in words.split()}


_SAME_ON_ROAD = ("wheel", "headlight", "mirror", "license plate", "door", "window")
_ROAD = {word: word for word in _SAME_ON_ROAD}

ADE20K_PART_234: Table = {
    "aeroplane": Counterpart(
        "airplane",
        _words(fuselage="body stern", wing="wing", stabilizer="tail", turbine_engine="engine", landing_gear="wheel"),
    ),
    "bus": Counterpart("bus", _ROAD),
    "car": Counterpart("car", _ROAD),
    "chair": Counterpart("chair", _words(leg="leg", seat="seat", back="rest")),
    "diningtable": Counterpart("table", _words(top="top", leg="leg")),
    "motorbike": Counterpart("minibike", _words(wheel="wheel", seat="saddle")),
    "person": Counterpart(
        "person",
        _words(head="head eye nose ear eyebrow mouth hair", torso="torso", neck="neck", leg="leg", foot="foot",
               hand="hand", arm="lower_arm upper_arm"),
    ),
    "sofa": Counterpart("sofa", _words(back="rest", seat_cushion="seat", arm="arm", leg="foot")),
    "tvmonitor": Counterpart("television receiver", _words(screen="screen", frame="case", base="stand base")),
}  # fmt: skip

_QUADRUPED = _words(head="head eye nose ear muzzle horn", body="torso neck", foot="leg paw hoof", tail="tail")
_BIRD = _words(head="head eye beak", body="torso neck", wing="wing", foot="leg foot", tail="tail")
_CAR = {
    **_words(tier="wheel", side_mirror="mirror"),
    **dict.fromkeys(("headlight", "front", "side", "back", "roof", "license plate", "door", "window"), "body"),
}
_BICYCLE = _words(
    tier="wheel", seat="saddle", head="handlebar headlight stem",
    body="chainwheel top down seat chain fork crank engine tank tail exhaust",
)  # fmt: skip
_AEROPLANE = _words(body="body stern", wing="wing", tail="tail", engine="engine")
_BOTTLE = _words(mouth="cap", body="body")
_BOAT = _words(body="hull", sail="sail jib")

# The download holds synsets outside the 40 objects, which reading filters out: here it is the ox.
PARTIMAGENET_SEG: Table = {
    "aeroplane": Counterpart("airliner", _AEROPLANE),
    "bicycle": Counterpart("mountain bike", _BICYCLE),
    "bird": Counterpart("goose", _BIRD),
    "boat": Counterpart("yawl", _BOAT),
    "bottle": Counterpart("beer bottle", _BOTTLE),
    "bus": Counterpart("school bus", _CAR),
    "car": Counterpart("jeep", _CAR),
    "cat": Counterpart("tiger", _QUADRUPED),
    "cow": Counterpart("ox", _QUADRUPED),
    "dog": Counterpart("golden retriever", _QUADRUPED),
    "motorbike": Counterpart("moped", _BICYCLE),
}
PARTIMAGENET_OOD: Table = {
    "aeroplane": Counterpart("airliner", _AEROPLANE),
    "bicycle": Counterpart("mountain bike", _BICYCLE),
    "bird": Counterpart("bald eagle", _BIRD),
    "boat": Counterpart("yawl", _BOAT),
    "bottle": Counterpart("beer bottle", _BOTTLE),
    "bus": Counterpart("school bus", _CAR),
    "car": Counterpart("cab", _CAR),
    "cat": Counterpart("Egyptian cat", _QUADRUPED),
    "cow": Counterpart("ox", _QUADRUPED),
    "dog": Counterpart("golden retriever", _QUADRUPED),
    "motorbike": Counterpart("motor scooter", _BICYCLE),
    "sheep": Counterpart("ram", _QUADRUPED),
}
TABLES: Mapping[str, Table] = {
    "ade20k_part_234": ADE20K_PART_234,
    "partimagenet_seg": PARTIMAGENET_SEG,
    "partimagenet_ood": PARTIMAGENET_OOD,
}


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

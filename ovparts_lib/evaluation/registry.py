"""The protocols there are, by name; what each counts and how it departs from ours stands in ``protocols.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

from ovparts_lib.evaluation.protocols import Note, Protocol, ProtocolResult
from ovparts_lib.evaluation.stored import Evaluation


def _read_protocols() -> dict[str, Protocol]:
    """The protocols of the file: fields of :class:`Protocol`, notes by their keys, ``{…}`` for shared sentences."""
    content = json.loads(resources.files(__package__).joinpath("protocols.json").read_text(encoding="utf-8"))
    notes = {key: Note(**note) for key, note in content["notes"].items()}
    protocols = {}
    for name, stated in content["protocols"].items():
        departures = tuple(notes[key] for key in stated.pop("notes", ()))
        modes, description = tuple(stated.pop("modes")), stated.pop("description").format(**content["sentences"])
        protocols[name] = Protocol(name=name, modes=modes, description=description, notes=departures, **stated)
    return protocols


PROTOCOLS = _read_protocols()


def protocol_named(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol called {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def score_all(evaluation: Evaluation, protocols: Sequence[str] = tuple(PROTOCOLS)) -> list[ProtocolResult]:
    """Every mode of an evaluation under every named protocol that can read it.

    Raises:
        ValueError: a protocol that does not exist.
    """
    chosen = [protocol_named(name) for name in protocols]
    return [
        protocol(evaluation, mode)
        for protocol in chosen
        for mode in evaluation.modes
        if protocol.applies(evaluation, mode)
    ]

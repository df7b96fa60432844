"""Captions such as the web writes them: every object and part is named, seen or unseen; nothing says where it is."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovparts_lib.miniature.scene import Thing

# Templates by what they tell of; the words for places; two spellings: Pascal's class name, which prompts use, and the
# one people write; parts of which one has one, in however many pieces.
PHRASES = json.loads(Path(__file__).with_name("figures").joinpath("captions.json").read_text(encoding="utf-8"))
NUMBERS = {2: "two", 3: "three", 4: "four"}


def with_article(words: str) -> str:
    """``"ear"`` -> ``"an ear"``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(noun: str) -> str:
    """English plural of the part names and objects that occur here."""
    irregular = {"foot": "feet", "person": "people", "sheep": "sheep", "hoof": "hooves"}
    last = noun.split()[-1]
    if last in irregular:
        return noun[: len(noun) - len(last)] + irregular[last]
    if noun.endswith("y"):
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "ch", "sh", "x")) else "s")


def spell(name: str, rng: np.random.Generator) -> str:
    """One of the spellings of an object or kind of stuff."""
    return _choose(PHRASES["spellings"].get(name, (name,)), rng)


def part_caption(name: str, part: str, colour: str, rng: np.random.Generator) -> str:
    """A caption of a close-up of one part, often in the very form systems prompt with (``"dog head"``)."""
    return _choose(PHRASES["part"], rng).format(part=part, a_part=_counted(part, 1), **_thing_words(name, colour, rng))


def object_caption(thing: Thing, rng: np.random.Generator) -> str:
    """A caption of a picture of one object, naming up to three of its visible parts."""
    template = _choose(PHRASES["object"] if thing.parts else PHRASES["object"][:3], rng)
    return template.format(
        parts=list_parts(thing, rng, 3) if thing.parts else "", **_thing_words(thing.name, thing.colour, rng)
    )


def stuff_caption(name: str, rng: np.random.Generator) -> str:
    """A caption of a close-up of stuff, such as grass."""
    return _choose(PHRASES["stuff"], rng).format(spell(name, rng))


def scene_caption(things: Sequence[Thing], place: str, rng: np.random.Generator) -> str:
    """A caption of a whole scene: all objects it shows, some with a part or two, sometimes where it is."""
    most = 2 if len(things) < 3 else 1
    phrases = []
    for thing in things:
        words = coloured(thing.name, thing.colour, rng)
        parts = list_parts(thing, rng, most) if thing.parts and rng.random() < 0.9 - 0.2 * len(things) else ""
        phrases.append(f"{words} with {parts}" if parts else words)
    link = (" and ", " next to ", ", ")[rng.integers(3)]
    template = _choose(PHRASES["scene"], rng)
    return template.format(things=link.join(phrases), place=_choose(PHRASES["places"][place], rng)).strip()


def list_parts(thing: Thing, rng: np.random.Generator, most: int) -> str:
    """``"a head, four legs and a tail"``: up to ``most`` visible parts in random order."""
    names = [list(thing.parts)[i] for i in rng.permutation(len(thing.parts))[:most]]
    return _join([_counted(name, thing.parts[name]) for name in names])


def coloured(name: str, colour: str, rng: np.random.Generator) -> str:
    """``"a red car"``; a person wears the colour instead of having it."""
    spelled = spell(name, rng)
    return f"a person in {colour}" if name == "person" else with_article(f"{colour} {spelled}")


def _counted(part: str, count: int) -> str:
    if part == "hair":
        return "hair"
    if count == 1 or part in PHRASES["single"]:
        return with_article(part)
    return f"{NUMBERS[count]} {plural(part)}" if count in NUMBERS else plural(part)


def _thing_words(name: str, colour: str, rng: np.random.Generator) -> dict[str, str]:
    thing = spell(name, rng)
    return {"thing": thing, "a_thing": with_article(thing), "a_colour_thing": coloured(name, colour, rng)}


def _choose(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

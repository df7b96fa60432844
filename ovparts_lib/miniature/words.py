"""The words a picture may show, each in many wordings, and which of them exclude one another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from ovparts_lib.miniature.captions import all_words, choose, plural, spell
from ovparts_lib.models.clip.prompts import IMAGENET
from ovparts_lib.vocabularies import PartVocabulary

PLACE_WORDS = {
    "meadow": ("meadow", "grass"),
    "street": ("street", "road"),
    "room": ("room", "floor"),
    "water": ("sea", "water"),
    "abstract": ("pattern", "shapes"),
    "wall": ("wall", "wall"),
}
PART_WORDINGS = (
    "{thing} {part}",
    "{thing}'s {part}",
    "{thing}'s {part}",
    "the {part} of a {thing}",
    "{part} of a {thing}",
    "a photo of a {thing} {part}",
    "a photo of a {thing}'s {part}",
    "a close-up of a {thing}'s {part}",
)
WORDINGS = ("{}", "{}", "a {}", "a photo of a {}", "a close-up of a {}")


class Words:
    """Object-specific parts, objects, generic parts and places of a vocabulary, numbered in this order.

    Attributes:
        parts: (object, part) of each object-specific part.
        tables: three lists of word numbers. The words of one exclude one another at a place in a picture:
            object-specific parts, objects, generic parts; to each belongs what there is besides.
    """

    def __init__(self, vocabulary: PartVocabulary) -> None:
        self.parts = list(vocabulary.pairs)
        self.objects, self.generic, self.places = vocabulary.objects, vocabulary.generic_parts, tuple(PLACE_WORDS)
        self.part_to_object = np.array(vocabulary.part_to_object)
        self.part_to_generic = np.array(vocabulary.part_to_generic)
        starts = np.cumsum([0, len(self.parts), len(self.objects), len(self.generic), len(self.places)])
        parts, objects, generic, places = (list(range(*ends)) for ends in pairwise(starts))
        self.first_object, self.first_generic, self.first_place, self.count = (int(start) for start in starts[1:])
        whole = [objects[i] for i in range(len(self.objects)) if i not in set(vocabulary.part_to_object)]
        self.tables = [
            torch.tensor(table)
            for table in ((*parts, *whole, *places), (*objects, *places), (*generic, *whole, *places))
        ]

    def shown(self, part_map: np.ndarray, object_map: np.ndarray, place: str, least: int) -> np.ndarray:
        """Which words are true of a picture, bool (count,), given its labels (h, w) and how many pixels it takes."""
        part_pixels = np.bincount(part_map.ravel(), minlength=256)[: len(self.parts)]
        object_pixels = np.bincount(object_map.ravel(), minlength=256)[: len(self.objects)]
        parts, objects = np.flatnonzero(part_pixels >= least), np.flatnonzero(object_pixels >= 2 * least)
        true = np.zeros(self.count, bool)
        true[parts] = True
        true[self.first_object + objects] = True
        true[self.first_generic + self.part_to_generic[parts]] = True
        true[self.first_place + self.places.index(place)] = (object_map == 255).sum() >= 4 * least
        return true

    def wordings(self, rng: np.random.Generator) -> list[str]:
        """Every word in one of its wordings: a quarter in the templates that CLIP was made a classifier with."""
        texts = []
        for thing, part in self.parts:
            template = choose(PART_WORDINGS, rng)
            if rng.random() < 0.25:
                template = choose(IMAGENET, rng).format(choose(PART_WORDINGS[:3], rng))
            texts.append(template.format(thing=spell(thing, rng), part=part))
        names = [spell(name, rng) for name in self.objects]
        names += [*self.generic, *(choose(PLACE_WORDS[place], rng) for place in self.places)]
        return texts + [choose(IMAGENET if rng.random() < 0.25 else WORDINGS, rng).format(name) for name in names]

    def texts(self) -> list[str]:
        """Texts that together hold every word of every wording and caption."""
        frames = [template.replace("{}", " ") for template in (*IMAGENET, *WORDINGS)]
        frames += [template.format(thing=" ", part=" ") for template in PART_WORDINGS]
        names = [*self.objects, *self.generic, *(word for words in PLACE_WORDS.values() for word in words)]
        return [*frames, *names, *(plural(name) for name in self.generic), *all_words()]

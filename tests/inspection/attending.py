"""Attention whose maps are known, for a vocabulary of two objects."""

import numpy as np
import torch

from ovparts_lib.systems.scores import AttentionMaps, Scores
from ovparts_lib.vocabularies import PartVocabulary

GRID, TOKENS = (6, 8), 49
WORDS = PartVocabulary.from_words({"dog": ["head", "tail"], "car": ["wheel"]})


def looking_at(places):
    """Attention (2 heads, t, t): every token looks at some patches only, at each of them alike."""
    weights = torch.zeros(2, TOKENS, TOKENS)
    for row, column in places:
        weights[:, :, 1 + row * GRID[1] + column] = 1 / len(places)
    return weights


def scores_of(maps, parts=(0, 1, 2), components=None):
    attention = AttentionMaps(
        GRID,
        {0: torch.stack([looking_at([(5, 7)])] * len(maps)), 2: torch.stack([looking_at(places) for places in maps])},
        {},
        tuple(WORDS.prompts[part] for part in parts),
        components or {},
    )
    return Scores(torch.zeros(len(parts), 12, 16), tuple(parts), None, (60, 80)), attention


def part_map():
    """The dog's head fills the left quarter, its tail the next; the car is at the right edge."""
    labels = np.full((60, 80), 65535)
    labels[:, :20], labels[:, 20:40], labels[:30, 70:] = 0, 1, 2
    return labels

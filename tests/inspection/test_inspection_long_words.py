"""Whatever the words and names are, panels of every kind are laid out: no warning, and no figure out of all size."""

import warnings
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ovparts_lib import inspection
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.evaluation.tables import class_table
from ovparts_lib.inspection.figures import figure_png
from ovparts_lib.systems.proposals import ProposalMaps
from ovparts_lib.systems.scores import AttentionMaps, CostMaps, Scores
from ovparts_lib.vocabularies import PartVocabulary

SIZE, GRID = (30, 40), (3, 4)
WORD = "handle of the old blue kettle of the " + "Donaudampfschiff" * 12  # 229 letters, most of them in one piece
DRAW = torch.Generator().manual_seed(0)
IMAGE = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=DRAW)
TOKENS = 1 + GRID[0] * GRID[1]


def vocabulary(word):
    owner, other = f"{word} 1", f"{word} 2"
    objects = [owner, other]
    parts = [f"{owner}'s {word} a", f"{owner}'s {word} b", f"{other}'s {word} c", other]
    return PartVocabulary("own", parts, objects, [other])


def panels(word):
    """What draws a panel of every kind, by the name of its function."""
    words = vocabulary(word)
    count = len(words.parts)
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * (count + 1) // (SIZE[0] * SIZE[1])
    maps = torch.rand(count, 8, 8, generator=DRAW)
    weights = torch.rand(count, 2, TOKENS, TOKENS, generator=DRAW).softmax(-1)
    scores = Scores(maps, tuple(range(count)), maps[0], SIZE, objects=None)
    attention = AttentionMaps(GRID, {0: weights, 1: weights}, {1: weights[0], 2: weights[0]}, words.prompts)
    cost = CostMaps(
        maps,
        maps,
        {0: torch.rand(count, count + 9, generator=DRAW)},
        words.parts,
        tuple(words.parts) + tuple(f"{word} other {i}" for i in range(9)),
    )
    proposals = ProposalMaps(
        IMAGE,
        torch.rand(count, *SIZE, generator=DRAW),
        torch.rand(count, count, generator=DRAW),
        None,
        None,
        None,
        torch.rand(count, count, generator=DRAW),
        words.parts,
    )
    counts = torch.randint(1, 90, (count + 1, count + 1), generator=DRAW)
    evaluation = Evaluation({"pred_all": ImageCounts.of_matrix(counts.numpy())}, ("a",), 9, 0, 9, words)
    table = class_table(evaluation, "recommended", "pred_all")
    statistics = pd.DataFrame(
        {"object": [pair[0] for pair in words.pairs], "part": words.parts, "images": 1, "shared": 0.5, "strength": 0.2}
    )
    objects = Scores(maps, scores.class_ids, maps[0], SIZE, objects=Scores(maps[:2], (0, 1), None, SIZE))
    generics = Scores(torch.rand(len(words.generic_parts), 8, 8), tuple(range(len(words.generic_parts))), None, SIZE)
    looks = inspection.part_attention_table(scores, attention, labels, words)
    runs = pd.DataFrame(
        {"label": [f"{word} {i}" for i in range(3)], "mode": "pred_all", "seen": 1.0, "unseen": 2.0, "harmonic": 1.3}
    )
    frequencies = pd.DataFrame({"part": words.parts, "images": 3, "seen": True})
    tries = pd.DataFrame({"threshold": [0.3, 0.5], "weight": 0.7, "mIoU": [1.0, 2.0]})
    history = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], f"evaluation/{word}": [1.0, 2.0]})
    return {
        "overlay": lambda: inspection.overlay(IMAGE, labels, words, word),
        "comparison": lambda: inspection.comparison(
            [IMAGE], [labels], [labels.T.reshape(SIZE)], words, [word], "pred_all"
        ),
        "label_grid": lambda: inspection.label_grid([IMAGE] * 3, [labels] * 3, words, [word] * 3, "val"),
        "caption_grid": lambda: inspection.caption_grid([IMAGE] * 3, [word] * 3),
        "part_attention": lambda: inspection.part_attention(IMAGE, {word: looks, "after": looks}, word, word),
        "composition": lambda: inspection.composition(IMAGE, objects, generics, labels, words, word),
        "cost_maps": lambda: inspection.cost_maps(IMAGE, scores, cost, word),
        "class_attention": lambda: inspection.class_attention(cost, word),
        "proposal_grid": lambda: inspection.proposal_grid(
            proposals, inspection.proposal_table(proposals), word, word, word
        ),
        "opinions": lambda: inspection.opinions(proposals, word),
        "search_heatmap": lambda: inspection.search_heatmap(tries, word),
        "attention_comparison": lambda: inspection.attention_comparison(
            {word: statistics, "after": statistics}, word, word
        ),
        "decoder_attention": lambda: inspection.decoder_attention(IMAGE, scores, attention, word),
        "clip_attention": lambda: inspection.clip_attention(IMAGE, scores, attention, word),
        "score_maps": lambda: inspection.score_maps(IMAGE, scores, words.parts, word),
        "part_confusion": lambda: inspection.part_confusion(evaluation, "pred_all"),
        "training_curve": lambda: inspection.training_curve(history, word, word),
        "run_bars": lambda: inspection.run_bars(runs, word, word, word),
        "iou_bars": lambda: inspection.iou_bars(table),
        "frequency_bars": lambda: inspection.frequency_bars(frequencies, words, word),
        "iou_heatmap": lambda: inspection.iou_heatmap(table),
    }


def test_every_kind_of_panel_is_here():
    functions = {name: getattr(inspection, name) for name in dir(inspection)}
    annotated = {
        name
        for name, each in functions.items()
        if getattr(each, "__annotations__", {}).get("return") is inspection.Panel
    }
    assert annotated == set(panels("head"))


@pytest.mark.parametrize("kind", list(panels("head")))
def test_long_words_fit(kind):
    panel = panels(WORD)[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = Image.open(BytesIO(figure_png(panel.figure, 50)))
    width, height = 50 * panel.figure.get_size_inches()
    assert picture.width < 1.3 * width + 20 and picture.height < 1.3 * height + 20

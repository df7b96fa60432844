"""Two who classify masks, the proposal network and CLIP, and how much either should count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from ovparts_lib import inspection
from ovparts_lib.evaluation import protocol_named
from ovparts_lib.evaluation.objects import score_objects
from ovparts_lib.evaluation.scoring import score_image
from ovparts_lib.inspection import Panel
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.systems.registry import system_of
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary


def search_ensemble(
    model: nn.Module, dataset: Any, images: int, thresholds: Sequence[float], weights: Sequence[float], protocol: str
) -> Panel:
    """Score every pair of threshold and weight on the first test images, with one pass of the network per threshold.

    What is best here is chosen on test images, as the published settings were: a figure at the chosen pair is no
    figure of a system that has never seen them.

    Args:
        model: a system of proposals and CLIP.
        dataset: the test images.
        images: how many of them; 0 for no search.
        thresholds: of masks.
        weights: of CLIP.
        protocol: by name.

    Returns:
        A heat map, and a table of a row per pair: threshold, weight, mIoU in percent, the best first.
    """
    if not images:
        title = "Mask threshold and weight of CLIP"
        return Panel("ensemble_search", title=title, caption="no search (search_images)")
    vocabulary, device = dataset.vocabulary, next(model.parameters()).device
    sweep = system_of(model).module("search").sweep
    counts: dict[tuple[float, float], torch.Tensor] = {}
    model.eval()
    for index in tqdm(range(min(images, len(dataset))), desc="Searching", unit="image"):
        sample = dataset[index]
        for *pair, scores in sweep(model, sample.image.to(device), vocabulary, thresholds, weights):
            counts[tuple(pair)] = _counts(scores, sample, vocabulary) + counts.get(tuple(pair), 0)
    read = protocol_named(protocol).read
    rows = [(*pair, read(m.cpu().numpy(), vocabulary, "pred_all").summary["mIoU"]) for pair, m in counts.items()]
    table = pd.DataFrame(rows, columns=["threshold", "weight", "mIoU"]).sort_values("mIoU", ascending=False)
    caption = f"mIoU of {images} test images, protocol {protocol}; the best are outlined."
    return inspection.search_heatmap(table.reset_index(drop=True), caption)


def shift_spread(model: nn.Module, dataset: Any, images: int, protocol: str, seeds: int = 5) -> Panel:
    """How far SCAN's score depends on which background tokens CS overwrites, by scoring images with several seeds.

    Args:
        model: SCAN.
        dataset: the test images.
        images: how many of them; 0 for none.
        protocol: by name.
        seeds: how many.

    Returns:
        A table of a row per seed: seed, mIoU in percent; the caption has mean and standard deviation.
    """
    title = "mIoU by the seed of contextual shift"
    if not images or not model.shift_ratio or model.classifier == "proposals":
        reason = "not asked for (spread_images)" if not images else "without contextual shift there is nothing random"
        return Panel("shift_spread", title=title, caption=reason)
    vocabulary, given = dataset.vocabulary, model.shift_seed
    count = min(images, len(dataset))
    matrices = [0] * seeds
    model.eval()
    try:
        for index in tqdm(range(count), desc="Other seeds", unit="image"):
            sample = dataset[index]
            for seed in range(seeds):
                model.shift_seed = seed
                (scores,) = model.predict([sample.image.to(model.device)], vocabulary)
                matrices[seed] = _counts(scores, sample, vocabulary) + matrices[seed]
    finally:
        model.shift_seed = given
    read = protocol_named(protocol).read
    figures = [read(matrix.cpu().numpy(), vocabulary, "pred_all").summary["mIoU"] for matrix in matrices]
    table = pd.DataFrame({"seed": range(seeds), "mIoU": figures})
    mean, deviation = table["mIoU"].mean(), table["mIoU"].std()
    caption = f"{mean:.2f}, standard deviation {deviation:.2f}, on {count} test images, protocol {protocol}"
    return Panel("shift_spread", table=table, title=title, caption=caption)


def _counts(scores: Scores, sample: Any, vocabulary: Vocabulary) -> torch.Tensor:
    """Confusion counts of one image in pred-all."""
    if isinstance(vocabulary, PartVocabulary):
        return score_image(scores, sample, vocabulary, ("pred_all",)).matrices["pred_all"]
    return score_objects(scores, sample, vocabulary).matrices["pred_all"]

"""The first test images scored again with one thing changed.

Mask thresholds and weights of CLIP, seeds of contextual shift, annotated masks and annotated names.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from ovparts_lib import inspection
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.objects import score_objects
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.protocols import protocol_named, score_all
from ovparts_lib.evaluation.scoring import score_image
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.inspection import Panel
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.systems.registry import system_of
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

ABLATIONS = {
    "as predicted": (None, "the system as it is"),
    "oracle masks": ("oracle_mask", "annotated regions, named by the system: what is lost is misnamed"),
    "oracle classes": ("oracle_class", "the system's regions, named by the annotation: what is lost are bad masks"),
}


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
    rows = [(*pair, _miou(matrix, vocabulary, protocol)) for pair, matrix in counts.items()]
    table = pd.DataFrame(rows, columns=["threshold", "weight", "mIoU"]).sort_values("mIoU", ascending=False)
    caption = f"mIoU of {images} test images, protocol {protocol}; the best are outlined."
    return inspection.search_heatmap(table.reset_index(drop=True), caption)


def shift_spread(model: nn.Module, dataset: Any, images: int, protocol: str, seeds: int = 5) -> Panel:
    """How far a score depends on which background tokens contextual shift overwrites: images scored with several seeds.

    Args:
        model: has ``shift_ratio`` and ``shift_seed``.
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
            image = sample.image.to(model.device)
            with torch.inference_mode():  # masks do not depend on the seed
                proposed = model.propose_masks(model.resized(image))
            for seed in range(seeds):
                model.shift_seed = seed
                (scores,) = model.predict([image], vocabulary, proposed=[proposed])
                matrices[seed] = _counts(scores, sample, vocabulary) + matrices[seed]
    finally:
        model.shift_seed = given
    figures = [_miou(matrix, vocabulary, protocol) for matrix in matrices]
    table = pd.DataFrame({"seed": range(seeds), "mIoU": figures})
    mean, deviation = table["mIoU"].mean(), table["mIoU"].std()
    caption = f"{mean:.2f}, standard deviation {deviation:.2f}, on {count} test images, protocol {protocol}"
    return Panel("shift_spread", table=table, title=title, caption=caption)


def oracle_ablations(model: nn.Module, dataset: Any, images: int, protocol: str, **options: Any) -> Panel:
    """Score the first test images in oracle-obj as predicted, with annotated masks, and with annotated names.

    Args:
        model: a two-stage system.
        dataset: the test images.
        images: how many; 0 for none.
        protocol: by name.
        **options: of :func:`ovparts_lib.evaluation.evaluator.evaluate`.

    Returns:
        A table with a row each, in percent, with what it tells.
    """
    title = f"Oracle ablations, first {images} test images, oracle-obj"
    if not images:
        return Panel("ablations", title=title, caption="switched off (ablation_images)")
    ablated, rows = system_of(model).module("ablations").oracle_ablations, []
    vocabulary = dataset.vocabulary
    options |= {"limit": images, "modes": ("oracle_obj",)}
    for name, (kind, tells) in ABLATIONS.items():
        given = {} if kind is None else {"predict": lambda sample, k=kind: ablated(model, sample, vocabulary)[k]}
        result = score_all(evaluate(model, dataset, **options, **given), [protocol])[0]
        figures = {key: result.summary[key] for key in ("seen", "unseen", "harmonic", "mIoU")}
        rows.append({"given": name, **figures, "protocol": result.protocol, "tells": tells})
    return Panel("ablations", table=pd.DataFrame(rows), title=title)


def _counts(scores: Scores, sample: Any, vocabulary: Vocabulary) -> torch.Tensor:
    """Confusion counts of one image in pred-all."""
    if isinstance(vocabulary, PartVocabulary):
        return score_image(scores, sample, vocabulary, ("pred_all",)).matrices["pred_all"]
    return score_objects(scores, sample, vocabulary).matrices["pred_all"]


def _miou(matrix: torch.Tensor, vocabulary: Vocabulary, protocol: str) -> float:
    """MIoU in pred-all of counts over all images."""
    chosen, counts = protocol_named(protocol), ImageCounts.of_matrix(matrix.cpu().numpy())
    evaluation = Evaluation({"pred_all": counts}, ("all",), 1, 0, 1, vocabulary, chosen.level)
    return chosen(evaluation, "pred_all").summary["mIoU"]

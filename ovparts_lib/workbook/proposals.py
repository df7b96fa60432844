"""Steps of systems that classify mask proposals, with a proposal network and with CLIP.

How much either should count, what oracle masks and oracle classes would gain, CLIP adapted to crops on the training
split and fused into the segmentation model, and prompts tuned before stage 1 trains.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import Subset

from ovparts_lib import inspection
from ovparts_lib.checkpoints.reading import RUN_WEIGHTS
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.registry import open_reader
from ovparts_lib.data.transforms import training_transform
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.objects import score_objects
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.protocols import protocol_named, score_all
from ovparts_lib.evaluation.scoring import score_image
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.inspection import Panel
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.systems.registry import SYSTEMS, system_of
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary
from ovparts_lib.workbook.data import OpenedData, open_training
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import chosen_images

ABLATIONS = {
    "as predicted": (None, "the system as it is"),
    "oracle masks": ("oracle_mask", "annotated regions, named by the system: what is lost is misnamed"),
    "oracle classes": ("oracle_class", "the system's regions, named by the annotation: what is lost are bad masks"),
}
_TESTED_IMAGES = 50  # whose annotated masks are named before and after the adaptation
PROMPTS_FILE = "prompts.safetensors"


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
            for seed in range(seeds):
                model.shift_seed = seed
                (scores,) = model.predict([sample.image.to(model.device)], vocabulary)
                matrices[seed] = _counts(scores, sample, vocabulary) + matrices[seed]
    finally:
        model.shift_seed = given
    figures = [_miou(matrix, vocabulary, protocol) for matrix in matrices]
    table = pd.DataFrame({"seed": range(seeds), "mIoU": figures})
    mean, deviation = table["mIoU"].mean(), table["mIoU"].std()
    caption = f"{mean:.2f}, standard deviation {deviation:.2f}, on {count} test images, protocol {protocol}"
    return Panel("shift_spread", table=table, title=title, caption=caption)


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


def adapt_clip(model: nn.Module, data: OpenedData, params: SystemOptions, output: RunOutput) -> Iterator[Panel]:
    """Adapt the CLIP that classifies crops as the parameters say, or fuse what the run has adapted before.

    Leaves that CLIP alone and the whole system in the run folder, so that the folder can be scored, inspected, or begun
    from.

    Yields:
        The loss, and, for a system that can tell, how often CLIP names annotated masks of test images right.
    """
    options = params.adaptation_options()
    if not options:
        yield Panel("clip_adaptation", title="CLIP for crops", caption="not adapted, as the parameters say")
        return
    system = SYSTEMS[params.system]
    tuning, classes = system.module("fine_tuning"), data.evaluation.vocabulary.classes
    path = output.path / tuning.FILE
    samples = [data.evaluation[index] for index in chosen_images(data.evaluation, _TESTED_IMAGES)]
    tested, history = {}, pd.DataFrame()
    if hasattr(tuning, "crop_accuracy"):
        tested["before"] = tuning.crop_accuracy(model, samples, classes)
    if path.is_file():
        print(f"adapted before, fused from {path.name}: {tuning.fuse_clip(model, path)}")
    else:
        training = data.training or open_training(params, open_reader(params.dataset, resolve_path(params.data_root)))
        history = tuning.adapt_clip(model, training, output.path, seed=params.seed, **options)
        for way, rows in history.groupby("way", sort=False):
            yield inspection.training_curve(rows, f"clip_adaptation_{way}", f"Adaptation of CLIP: {way}")
    if tested:
        tested["after"] = tuning.crop_accuracy(model, samples, classes)
        table = pd.DataFrame(tested).T.rename_axis("adaptation").reset_index()
        yield Panel("crop_accuracy", table=table, title="Annotated masks of test images that CLIP names right, percent")
    system.save(model, output.path / RUN_WEIGHTS, setting=params.setting, run=params.run)
    print(f"{RUN_WEIGHTS} holds the segmentation model with its CLIP for crops")


def tune_prompts(model: nn.Module, data: OpenedData, params: SystemOptions, output: RunOutput) -> Iterator[Panel]:
    """Tune the prompts on annotated regions of the training split, unless the run's weights bring them.

    A run that is resumed reads the prompts it has tuned before.

    Yields:
        The loss, and how many held-out regions CLIP names right before and after, among the parts of their object.
    """
    if not params.iterations or params.prompts or params.initialise_from:
        yield Panel("prompt_tuning", title="Prompt tuning", caption="prompts come with the weights: nothing to tune")
        return
    system, path = SYSTEMS[params.system], output.path / PROMPTS_FILE
    tuning, weights = system.module("prompt_tuning"), system.module("weights")
    held_out = data.evaluation
    chosen = np.linspace(0, len(held_out) - 1, min(len(held_out), max(1, params.ablation_images))).astype(int)
    images = {held_out.image_ids[index] for index in chosen}
    samples = _records(model, held_out, params)
    samples = Subset(samples, [i for i, record in enumerate(samples.records) if record.image_id in images])
    tested = tuning.collect_regions(model, samples)
    tables = {"before": tuning.naming_accuracy(model, tested, held_out.vocabulary)}
    if path.is_file():
        print(f"tuned before: {weights.load_prompts_into(model, path)}")
    else:
        settings = tuning.PromptTuningSettings(**params.prompt_settings())
        training = _records(model, data.training, params)
        regions = tuning.collect_regions(model, training, per_class=settings.regions_per_class)
        history = tuning.tune_prompts(model, regions, training.vocabulary, settings)
        yield inspection.training_curve(history, "prompt_tuning", "Prompt tuning")
        weights.save_prompts(model, path, recipe=params.prompt_settings())
    tables["after"] = tuning.naming_accuracy(model, tested, held_out.vocabulary)
    table = pd.concat(tables, names=["stage", "row"]).reset_index("stage").reset_index(drop=True)
    yield Panel("naming_accuracy", table=table, title="Regions of test images that CLIP names right")


def _records(model: nn.Module, dataset: Any, params: SystemOptions) -> TrainingDataset:
    """Records of one object each, at the size that the system sees them in evaluation, not augmented."""
    transform = training_transform(
        shortest_edge=model.size.shortest_edge,
        longest_edge=model.size.longest_edge,
        flip=0.0,
        label_resize=params.label_resize,
    )
    return TrainingDataset(dataset.reader, dataset.split, transform, per_object=True)

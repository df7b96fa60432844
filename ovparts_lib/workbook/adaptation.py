"""CLIP adapted before a system is scored: to crops, and fused into the system, or by tuning its prompts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.utils.data import Subset

from ovparts_lib import inspection
from ovparts_lib.checkpoints.reading import RUN_WEIGHTS
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.registry import open_reader
from ovparts_lib.data.transforms import training_transform
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import OpenedData, open_training
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import chosen_images

_TESTED_IMAGES = 50  # whose annotated masks are named before and after the adaptation
PROMPTS_FILE = "prompts.safetensors"


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

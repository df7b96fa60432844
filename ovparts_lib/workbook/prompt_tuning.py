"""Prompts of a two-stage system: tuned before stage 1 trains, kept in the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.utils.data import Subset

from ovparts_lib import inspection
from ovparts_lib.data import TrainingDataset, training_transform
from ovparts_lib.inspection import Panel
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import OpenedData
from ovparts_lib.workbook.output import RunOutput

FILE = "prompts.safetensors"


def tune_prompts(model: nn.Module, data: OpenedData, params: SystemOptions, output: RunOutput) -> Iterator[Panel]:
    """Tune the prompts on annotated regions of the training split, unless the run's weights bring them.

    A run that is resumed reads the prompts it has tuned before.

    Returns:
        The loss, and how many held-out regions CLIP names right before and after, among the parts of their object.
    """
    if not params.iterations or params.prompts or params.initialise_from:
        yield Panel("prompt_tuning", title="Prompt tuning", caption="prompts come with the weights: nothing to tune")
        return
    system, path = SYSTEMS[params.system], output.path / FILE
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

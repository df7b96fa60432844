"""SCAN's CLIP for crops: fine-tuned with context, and fused into the segmentation model."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from ovparts_lib.checkpoints.reading import RUN_WEIGHTS
from ovparts_lib.data.registry import open_reader
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import PartData, open_training
from ovparts_lib.workbook.output import RunOutput

SHIFTED = "shifted_clip.safetensors"


def fine_tune_shifted_clip(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> pd.DataFrame:
    """Fine-tune the CLIP that classifies crops, or fuse what the run has fine-tuned before.

    Leaves the CLIP alone (``shifted_clip.safetensors``) and the whole system in the run folder.

    Returns:
        The loss of each step.
    """
    if not params.shift_iterations:
        print("CLIP is not fine-tuned, as the parameters say (shift_iterations)")
        if params.fused_clip:
            _save_fused(model, params, output)
        return pd.DataFrame()
    system, path = SYSTEMS[params.system], output.path / SHIFTED
    table = pd.DataFrame()
    if path.is_file():
        print(f"fine-tuned before, fused from {path.name}: {system.module('weights').fuse_clip(model, path)}")
    else:
        training = data.training or open_training(params, open_reader(params.dataset, resolve_path(params.data_root)))
        shifted, losses = system.module("fine_tuning").fine_tune(
            model,
            training,
            iterations=params.shift_iterations,
            batch_size=params.shift_batch_size,
            learning_rate=params.shift_learning_rate,
            seed=params.seed,
        )
        system.module("adaptation").save_shifted(shifted, path, run=params.run)
        table = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
        output.table(table, "shifted_clip", title="Fine-tuning of CLIP on crops with context")
    _save_fused(model, params, output)
    return table


def _save_fused(model: nn.Module, params: Any, output: RunOutput) -> None:
    """Write the system with its new CLIP, so that the run's folder can be scored, inspected, or begun from."""
    about = {"setting": params.setting, "run": params.run}
    SYSTEMS[params.system].save(model, output.path / RUN_WEIGHTS, **about)
    print(f"{RUN_WEIGHTS} holds the segmentation model with its CLIP for crops")

"""Evaluation as a notebook uses it: matrices kept in the run folder, tables and figures made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ovparts_lib import inspection
from ovparts_lib.evaluation import PROTOCOLS, Evaluation, class_table, evaluate, summary_table
from ovparts_lib.training import TrainingResult
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.systems import device_of

MODES = ("oracle_obj", "pred_all")
MODE_TITLES = {"oracle_obj": "oracle-obj", "pred_all": "pred-all"}


def evaluate_stage(model: nn.Module, data: PartData, params: Any, output: RunOutput, stage: str) -> Evaluation:
    """Score the test split in both modes and keep the confusion matrices in ``evaluation/<stage>/``.

    A run that is resumed reads what it has scored before.
    """
    folder = output.path / "evaluation" / stage
    if (folder / "matrices.npz").is_file():
        return Evaluation.load(folder, data.evaluation.vocabulary)
    evaluation = evaluate(
        model,
        data.evaluation,
        device=device_of(params),
        precision=params.precision,
        limit=params.evaluation_limit,
        workers=params.workers,
    )
    evaluation.save(folder)
    return evaluation


def evaluate_before(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> Evaluation | None:
    """Score the weights training begins from, unless the parameters say no or nothing trains."""
    if not (params.iterations and params.evaluate_before_training):
        print("not scored before training (evaluate_before_training, iterations)")
        return None
    return evaluate_stage(model, data, params, output, "before")


def quick_scores(data: PartData, params: Any) -> Any:
    """The function the training loop calls every ``evaluate_every`` steps: model, step -> figures under ``recommended``."""

    def scores(model: nn.Module, step: int) -> dict[str, float]:
        evaluation = evaluate(
            model,
            data.evaluation,
            device=device_of(params),
            precision=params.precision,
            limit=params.evaluation_limit,
            progress=False,
        )
        rows = summary_table([PROTOCOLS[params.protocols[0]](evaluation, mode) for mode in MODES])
        return {f"{row['mode']}_{key}": row[key] for _, row in rows.iterrows() for key in ("seen", "unseen", "harmonic")}

    return scores

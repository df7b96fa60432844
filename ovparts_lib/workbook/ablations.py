"""Oracle ablations of a two-stage system: how much of the error is masks, how much is names."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from ovparts_lib.evaluation import evaluate, score_all
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.scoring import evaluation_options

ABLATIONS = {
    "as predicted": (None, "the system as it is"),
    "oracle masks": ("oracle_mask", "annotated regions, named by the system: what is lost is misnamed"),
    "oracle classes": ("oracle_class", "the system's regions, named by the annotation: what is lost are bad masks"),
}


def ablation_table(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> pd.DataFrame:
    """Score the first test images in oracle-obj as predicted, with annotated masks, and with annotated names.

    Returns:
        A row each, in percent, with what it tells; empty where ``params.ablation_images`` is 0.
    """
    if not params.ablation_images:
        print("ablations are switched off (ablation_images)")
        return pd.DataFrame()
    vocabulary = data.evaluation.vocabulary
    ablated = SYSTEMS[params.system].module("ablations").oracle_ablations
    options = evaluation_options(params) | {"limit": params.ablation_images, "modes": ("oracle_obj",)}
    rows = []
    for name, (kind, tells) in ABLATIONS.items():
        given = {} if kind is None else {"predict": lambda sample, k=kind: ablated(model, sample, vocabulary)[k]}
        result = score_all(evaluate(model, data.evaluation, **options, **given), params.protocols[:1])[0]
        figures = {key: result.summary[key] for key in ("seen", "unseen", "harmonic", "mIoU")}
        rows.append({"given": name, **figures, "protocol": result.protocol, "tells": tells})
    title = f"Oracle ablations, first {params.ablation_images} test images, oracle-obj"
    return output.table(pd.DataFrame(rows), "ablations", title=title)

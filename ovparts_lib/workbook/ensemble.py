"""Two who classify masks, the proposal network and CLIP, and how much either should count."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ovparts_lib import inspection
from ovparts_lib.evaluation import protocol_named
from ovparts_lib.evaluation.objects import score_objects
from ovparts_lib.evaluation.scoring import score_image
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.output import RunOutput


def search_ensemble(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> pd.DataFrame:
    """Score every pair of threshold and weight on the first test images, with one pass of the network per threshold.

    What is best here is chosen on test images, as the published settings were: a figure at the chosen pair is no
    figure of a system that has never seen them.

    Returns:
        A row per pair: threshold, weight, mIoU under the first protocol (percent).
    """
    if not params.search_images:
        print("no search of threshold and weight, as the parameters say (search_images)")
        return pd.DataFrame()
    vocabulary, device = data.evaluation.vocabulary, next(model.parameters()).device
    protocol, sweep = protocol_named(params.protocols[0]), SYSTEMS[params.system].module("search").sweep
    counts: dict[tuple[float, float], torch.Tensor] = {}
    model.eval()
    for index in tqdm(range(min(params.search_images, len(data.evaluation))), desc="Searching", unit="image"):
        sample = data.evaluation[index]
        for threshold, weight, scores in sweep(
            model, sample.image.to(device), vocabulary, params.thresholds, params.weights
        ):
            if data.of_parts:
                found = score_image(scores, sample, vocabulary, ("pred_all",))
            else:
                found = score_objects(scores, sample, vocabulary)
            pair = (threshold, weight)
            counts[pair] = found.matrices["pred_all"] + counts.get(pair, 0)
    rows = [
        {
            "threshold": threshold,
            "weight": weight,
            "mIoU": protocol.read(matrix.cpu().numpy(), vocabulary, "pred_all").summary["mIoU"],
        }
        for (threshold, weight), matrix in counts.items()
    ]
    table = pd.DataFrame(rows)
    output.figure(
        inspection.search_heatmap(table),
        "ensemble_search",
        title="Mask threshold and weight of CLIP",
        caption=f"mIoU of {params.search_images} test images, protocol {protocol.name}; the best is outlined.",
        data=table,
    )
    return table.sort_values("mIoU", ascending=False).reset_index(drop=True)

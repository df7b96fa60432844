"""Overlap and strength of parts in a decoder's attention, before and after training, as a notebook shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ovparts_lib.data import EvaluationSample
from ovparts_lib.inspection.attention_statistics import (
    attention_by_class,
    attention_comparison,
    attention_statistics,
    part_attention,
)
from ovparts_lib.models.scores import PartScores
from ovparts_lib.vocabularies import Vocabulary
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import chosen_images


def measure_attention(model: nn.Module, data: PartData, params: Any, output: RunOutput, stage: str) -> pd.DataFrame:
    """Overlap and strength per part over ``params.statistics_images`` test images; kept for a run that is resumed.

    Args:
        model: a system whose decoder's attention can be kept.
        data: the test images.
        params: parameters of the run.
        output: keeps the table as ``attention_<stage>.csv``.
        stage: ``before`` or ``after`` training.
    """
    path = output.run.tables / f"attention_{stage}.csv"
    title = f"Parts in the decoder's attention, {stage} training"
    if stage == "before" and not params.iterations:
        return pd.DataFrame()
    if stage == "before" and path.is_file():
        return output.table(pd.read_csv(path), f"attention_{stage}", title=title)
    model.eval()
    tables = []
    for index in chosen_images(data, params.statistics_images):
        sample = data.evaluation[index]
        scores = _with_attention(model, sample, data.evaluation.vocabulary)
        if scores is not None:
            tables.append(_statistics(scores, sample, data.evaluation.vocabulary, params))
    if not any(len(table) for table in tables):
        print("attention is not measured: no image, or none with a part as large as a patch (statistics_images)")
        return pd.DataFrame()
    return output.table(attention_by_class(tables), f"attention_{stage}", title=title)


def attention_change(before: pd.DataFrame, after: pd.DataFrame, data: PartData, output: RunOutput) -> pd.DataFrame:
    """What training did to overlap and strength: a figure per part, and the means over seen and unseen parts."""
    if before.empty or after.empty:
        return pd.DataFrame()
    unseen = data.evaluation.vocabulary.unseen_objects
    stages = {"before": before, "after": after}
    merged = pd.concat([table.assign(stage=stage) for stage, table in stages.items()], ignore_index=True)
    output.figure(
        attention_comparison(stages, unseen=unseen),
        "attention_change",
        title="Parts in the decoder's attention, before and after training",
        caption="Overlap (less is more separate) and strength of each part; parts marked * are of unseen objects.",
        data=merged,
    )
    merged["group"] = np.where(merged["object"].isin(unseen), "unseen", "seen")
    means = merged.groupby(["group", "stage"], sort=False)[["strength", "shared", "on_part", "object_overlap"]].mean()
    return output.table(means.reset_index(), "attention_means", title="Attention of parts, means over classes")


def part_attention_figures(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> None:
    """What the patches of each labelled part attend to, beside the maps of its generic part's and object's queries.

    An image without a part as large as a patch has no such maps and is passed over.
    """
    vocabulary = data.evaluation.vocabulary
    for index in chosen_images(data, params.attention_images):
        sample = data.evaluation[index]
        scores = _with_attention(model, sample, vocabulary)
        statistics = None if scores is None else _statistics(scores, sample, vocabulary, params)
        if statistics is None or statistics.empty:
            print(f"no attention of parts to show: {sample.image_id} has no part as large as a patch")
            continue
        output.figure(
            part_attention(sample.image, scores, sample.part_map, vocabulary),
            f"part_attention_{sample.image_id}",
            title=f"Attention of parts: {sample.image_id}",
            caption="Where the patches of a part look, for the part, its generic name's query and its object's query.",
            data=statistics,
        )


def _statistics(scores: PartScores, sample: EvaluationSample, vocabulary: Vocabulary, params: Any) -> pd.DataFrame:
    return attention_statistics(scores, sample.part_map, vocabulary, threshold=params.attention_threshold)


def _with_attention(model: nn.Module, sample: EvaluationSample, vocabulary: Vocabulary) -> PartScores | None:
    """Scores of the parts that are labelled in an image, with the decoder's attention; None if no part is."""
    labels = sample.part_map.unique().tolist()
    wanted = [label for label in labels if label < len(vocabulary.parts)]
    if not wanted:
        return None
    return model.predict([sample.image], vocabulary, part_ids=wanted, background=False, keep_attention=True)[0]

"""Attention of parts before and after training, and what parts are composed of, as a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ovparts_lib.data import EvaluationSample
from ovparts_lib.inspection import (
    attention_by_class,
    attention_changes,
    attention_comparison,
    attention_statistics,
    composition,
    composition_table,
    part_attention,
    part_attention_table,
)
from ovparts_lib.inspection.attention_statistics import CHANGING
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.registry import load_system
from ovparts_lib.systems.scores import AttentionMaps, Scores
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import WORDS_WITH_ATTENTION, chosen_images, largest_classes
from ovparts_lib.workbook.systems import device_of


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
    table = _measured(model, data, params)
    if table.empty:
        print("attention is not measured: no image, or none with a part as large as a patch (statistics_images)")
        return table
    return output.table(table, f"attention_{stage}", title=title)


def attention_change(before: pd.DataFrame, after: pd.DataFrame, data: PartData, output: RunOutput) -> pd.DataFrame:
    """What training did to overlap and strength of each part: a figure, and a table of both moments side by side."""
    if before.empty or after.empty:
        return pd.DataFrame()
    unseen = data.evaluation.vocabulary.unseen_objects
    change = attention_changes(before, after)
    change.insert(2, "group", np.where(change["object"].isin(unseen), "unseen", "seen"))
    output.figure(
        attention_comparison({"before": before, "after": after}, unseen=unseen),
        "attention_change",
        title="Parts in the decoder's attention, before and after training",
        caption="Overlap (less is more separate) and strength of each part; parts marked * are of unseen objects.",
        data=change,
    )
    return output.table(change, "attention_change", title="Attention of each part, before and after training")


def attention_means(change: pd.DataFrame, output: RunOutput) -> pd.DataFrame:
    """Means over the parts of seen and of unseen objects, from the table of :func:`attention_change`.

    A measure's means are over the parts that have it at both moments.
    """
    if change.empty:
        return pd.DataFrame()
    values = change.drop(columns=["object", "part", "images"]).copy()
    for measure in CHANGING:
        columns = [f"{measure}_{which}" for which in ("before", "after", "difference")]
        values.loc[values[columns].isna().any(axis=1), columns] = np.nan
    groups = values.groupby("group", sort=False)
    means = groups.mean()
    means.insert(0, "parts", groups.size())
    return output.table(means.reset_index(), "attention_means", title="Attention of parts, means over classes")


def part_attention_figures(
    model: nn.Module,
    data: PartData,
    params: Any,
    output: RunOutput,
    stage: str,
    before: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, pd.DataFrame]:
    """What the patches of each labelled part attend to, for its own, its generic part's and its object's query.

    An image without a part as large as a patch has no such maps and is passed over.

    Args:
        model: a system whose decoder's attention can be kept.
        data: the test images, of which ``params.attention_images`` are shown.
        params: parameters of the run.
        output: keeps each figure and its maps as ``part_attention_<stage>_<image>``.
        stage: ``before`` or ``after`` training; where nothing trains, there is no before.
        before: what this function gave before training; the same maps of that moment then stand beside each map.

    Returns:
        The maps, a table per image.
    """
    if stage == "before" and not params.iterations:
        return {}
    found = {}
    for sample, maps in _maps(model, data, params):
        if maps.empty:
            print(f"no attention of parts to show: {sample.image_id} has no part as large as a patch")
            continue
        found[sample.image_id] = maps
        tables = ({"before": before[sample.image_id]} if before else {}) | {stage: maps}
        title = f"Attention of parts, {' and '.join(tables)} training: {sample.image_id}"
        _show_maps(sample, tables, f"part_attention_{stage}_{sample.image_id}", title, output)
    return found


def attention_beside(
    data: PartData, params: Any, output: RunOutput, measured: pd.DataFrame, maps: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """The attention of another finished run beside this one's: on the same images, of the same queries.

    Args:
        data: the test images.
        params: ``attention_beside`` is the other run's folder; None shows nothing.
        output: keeps a figure per image and one of all parts, each with its data.
        measured: what :func:`measure_attention` gave of this run.
        maps: what :func:`part_attention_figures` gave of this run.

    Returns:
        Overlap and strength of parts in both runs: a row per run and group of objects, means over parts.
    """
    if params.attention_beside is None or measured.empty:
        return pd.DataFrame()
    folder = resolve_path(params.attention_beside)
    model, _ = load_system(folder)
    model.to(device_of(params))
    other, own = folder.name, params.run
    for sample, found in _maps(model, data, params):
        if sample.image_id in maps and not found.empty:
            title = f"Attention of parts in {other} and {own}: {sample.image_id}"
            tables = {"other run": found, "this run": maps[sample.image_id]}  # names may be long; the title has them
            _show_maps(sample, tables, f"part_attention_beside_{sample.image_id}", title, output)
    tables = {"other run": _measured(model, data, params), "this run": measured}
    unseen = data.evaluation.vocabulary.unseen_objects
    rows = pd.concat([table.assign(run=name) for name, table in tables.items()], ignore_index=True)
    rows["group"] = np.where(rows["object"].isin(unseen), "unseen", "seen")
    output.figure(
        attention_comparison(tables, unseen=unseen),
        "attention_beside",
        title=f"Parts in the decoder's attention: {other} and {own}",
        caption="Overlap (less is more separate) and strength of each part; parts marked * are of unseen objects.",
        data=rows,
    )
    means = rows.groupby(["run", "group"], sort=False)[list(CHANGING)].mean().reset_index()
    means.insert(1, "name", means["run"].map({"other run": other, "this run": own}))
    return output.table(means, "attention_beside", title="Attention of parts in two runs, means over classes")


def composition_figures(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> None:
    """The object's, the generic part's and the object-specific part's own scores, for the largest parts of an image."""
    vocabulary = data.evaluation.vocabulary
    model.eval()
    for index in chosen_images(data, params.attention_images):
        sample = data.evaluation[index]
        parts = largest_classes(sample.part_map, vocabulary)[:WORDS_WITH_ATTENTION]
        if not parts:
            continue
        scores, found = model.inspect([sample.image], vocabulary, class_ids=parts)[0]
        generic_parts = found["generic_parts"]
        output.figure(
            composition(sample.image, scores, generic_parts, vocabulary),
            f"composition_{sample.image_id}",
            title=f"Object, generic part, and object-specific part: {sample.image_id}",
            caption="What the object's and the generic part's query say by themselves, their product, and what the "
            "second stage makes of the pair: probabilities, each map up to its own peak.",
            data=composition_table(scores, generic_parts, sample.part_map, vocabulary),
        )


def _layer(model: nn.Module) -> int | None:
    """The layer whose attention a system controls; None, which stands for the last, for systems that control none."""
    return getattr(model, "attention_layer", None)


def _with_attention(
    model: nn.Module, sample: EvaluationSample, vocabulary: PartVocabulary
) -> tuple[Scores, AttentionMaps] | None:
    """Scores of the parts that are labelled in an image, and the decoder's attention; None if no part is."""
    parts = sorted(largest_classes(sample.part_map, vocabulary))
    if not parts:
        return None
    scores, maps = model.inspect([sample.image], vocabulary, class_ids=parts, background=False)[0]
    return scores, maps["attention"]


def _measured(model: nn.Module, data: PartData, params: Any) -> pd.DataFrame:
    """Overlap and strength per part over the images of ``params``; empty if no image has a part as large as a patch."""
    model.eval()
    tables, vocabulary, layer = [], data.evaluation.vocabulary, _layer(model)
    for index in chosen_images(data, params.statistics_images):
        sample = data.evaluation[index]
        found = _with_attention(model, sample, vocabulary)
        if found is not None:
            threshold = params.attention_threshold
            tables.append(attention_statistics(*found, sample.part_map, vocabulary, layer=layer, threshold=threshold))
    return attention_by_class(tables) if any(len(table) for table in tables) else pd.DataFrame()


def _maps(model: nn.Module, data: PartData, params: Any) -> Iterator[tuple[EvaluationSample, pd.DataFrame]]:
    """The images that are shown, each with its table of attention maps, empty if no part is as large as a patch."""
    model.eval()
    vocabulary, layer = data.evaluation.vocabulary, _layer(model)
    for index in chosen_images(data, params.attention_images):
        sample = data.evaluation[index]
        found = _with_attention(model, sample, vocabulary)
        table = pd.DataFrame()
        if found is not None:
            table = part_attention_table(*found, sample.part_map, vocabulary, layer=layer)
        yield sample, table


def _show_maps(
    sample: EvaluationSample, tables: Mapping[str, pd.DataFrame], name: str, title: str, output: RunOutput
) -> None:
    output.figure(
        part_attention(sample.image, tables),
        name,
        title=title,
        caption="Where the patches of a part look, for the part, its generic name's query and its object's query; "
        "each map up to its own peak.",
        data=pd.concat([table.assign(stage=stage) for stage, table in tables.items()], ignore_index=True),
    )

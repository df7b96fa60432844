"""Finished runs beside each other, and beside published numbers of the same protocol."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ovparts_lib import inspection
from ovparts_lib.evaluation import (
    Evaluation,
    ProtocolMismatchError,
    merge_tables,
    published_results,
    score_all,
    summary_table,
)
from ovparts_lib.runs import find_runs, resolve_path
from ovparts_lib.workbook.output import RunOutput

FIGURES = ["seen", "unseen", "harmonic", "mIoU"]


def compare_runs(params: Any) -> pd.DataFrame:
    """All scored runs under one protocol, computed anew from their confusion matrices.

    Returns:
        A row per run, stage and mode: setting, run, system, dataset, stage, mode, the group means with the classes
        averaged, records, protocol, version, vocabulary. Empty if nothing has been scored.

    Raises:
        ProtocolMismatchError: the runs differ in vocabulary; name the settings that belong together.
    """
    tables, about = {}, {}
    for run in find_runs(resolve_path(params.outputs), params.settings):
        if run.state != "complete":
            continue
        for matrices in sorted((run.path / "evaluation").glob("*/matrices.npz")):
            evaluation = Evaluation.load(matrices)
            results = score_all(evaluation, [params.protocol])
            key = f"{run.setting}/{run.run}/{matrices.parent.name}"
            tables[key] = summary_table(results)
            about[key] = {
                "setting": run.setting,
                "run": run.run,
                "system": run.notebook.partition("_")[2],
                "dataset": run.params.get("dataset", ""),
                "stage": matrices.parent.name,
                "data": run.provenance.get("dataset_fingerprint", ""),
                "scored_images": evaluation.images,
            }
    if not tables:
        return pd.DataFrame(columns=["setting", "run", "system", "dataset", "stage", "mode", *FIGURES, "protocol"])
    _refuse_other_data(about)
    merged = merge_tables(tables)
    facts = pd.DataFrame([about[key] for key in merged["run"]])
    return pd.concat([facts, merged.drop(columns="run")], axis=1)


def _refuse_other_data(about: dict[str, dict[str, Any]]) -> None:
    """Figures over other images do not belong in one table, whatever the protocol."""
    groups: dict[tuple[str, int], list[str]] = {}
    for key, facts in about.items():
        groups.setdefault((facts["data"], facts["scored_images"]), []).append(key)
    if len(groups) > 1:
        found = "; ".join(f"{images} images of {data} in {', '.join(keys)}" for (data, images), keys in groups.items())
        raise ProtocolMismatchError(
            f"runs were scored on different images: {found}. Compare settings that belong together (settings: [...])"
        )


def comparison_figure(ours: pd.DataFrame, params: Any, output: RunOutput) -> None:
    """Seen, unseen and harmonic mIoU of every run and stage, a panel per mode; nothing where nothing was scored."""
    if ours.empty:
        print("nothing has been scored yet")
        return
    output.figure(
        inspection.run_bars(ours.assign(label=ours["run"] + ", " + ours["stage"])),
        "runs",
        title=f"Runs under the protocol {params.protocol}",
        caption="mIoU over seen and unseen part classes, and their harmonic mean, per run and stage.",
        data=ours,
    )


def beside_published(ours: pd.DataFrame, params: Any) -> pd.DataFrame:
    """Our rows and the published ones of the same dataset, setting and protocol, never mixing protocols.

    ``recommended`` has no published rows: published numbers stand beside ours under the protocol they were computed
    with, so choose that protocol to see them.
    """
    columns = ["source", "system", "detail", "setting", "dataset", "mode", *FIGURES, "protocol", "evidence"]
    mine = ours.assign(source="this workbook", detail=ours["run"] + ", " + ours["stage"], evidence="measured here")
    frames = [mine.reindex(columns=columns)]
    if params.published:
        pairs = ours[["dataset", "setting"]].drop_duplicates().itertuples(index=False)
        for dataset, setting in pairs:
            rows = published_results(dataset, setting)
            rows = rows[rows["protocol"] == params.protocol]
            detail = (rows["backbone"] + " " + rows["finetuning"]).str.strip()
            frames.append(rows.assign(detail=detail).reindex(columns=columns))
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

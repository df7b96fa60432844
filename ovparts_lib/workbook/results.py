"""Finished runs beside each other, and beside published numbers of the same protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown, display

from ovparts_lib import inspection
from ovparts_lib.evaluation import (
    Evaluation,
    ProtocolMismatchError,
    compare,
    merge_tables,
    published_results,
    score_all,
    summary_table,
)
from ovparts_lib.runs import find_runs, resolve_path
from ovparts_lib.runs.listing import RunRecord
from ovparts_lib.workbook.output import RunOutput

FIGURES = ["seen", "unseen", "harmonic", "mIoU"]
BESIDE = ["source", "system", "detail", "setting", "dataset", "mode", *FIGURES, "protocol", "evidence"]


def compare_runs(params: Any) -> pd.DataFrame:
    """All scored runs under one protocol, computed anew from their confusion matrices.

    Returns:
        A row per run, stage and mode: setting, run, system, dataset, stage, mode, the group means with the classes
        averaged, records, protocol, version, vocabulary. Empty if nothing has been scored.

    Raises:
        ProtocolMismatchError: the runs differ in vocabulary; name the settings that belong together.
    """
    tables, about = {}, {}
    for key, (run, stage, evaluation) in _evaluations(params).items():
        results = score_all(evaluation, [params.protocol])
        if not results:
            continue
        tables[key] = summary_table(results)
        about[key] = {
            "setting": run.setting,
            "run": run.run,
            "system": run.notebook.partition("_")[2],
            "dataset": _scored_on(run.params),
            "stage": stage,
            "data": run.provenance.get("dataset_fingerprint", ""),
            "scored_images": evaluation.images,
        }
    if not tables:
        return pd.DataFrame(columns=["setting", "run", "system", "dataset", "stage", "mode", *FIGURES, "protocol"])
    _refuse_other_data(about)
    merged = merge_tables(tables)
    facts = pd.DataFrame([about[key] for key in merged["run"]])
    return pd.concat([facts, merged.drop(columns="run")], axis=1)


def _evaluations(params: Any) -> dict[str, tuple[RunRecord, str, Evaluation]]:
    """Stored counts of all complete runs: (run, stage, counts) by ``setting/run/stage``."""
    found = {}
    for run in find_runs(resolve_path(params.outputs), params.settings):
        if run.state == "complete":
            for matrices in sorted((run.path / "evaluation").glob("*/matrices.npz")):
                stage = matrices.parent.name
                found[f"{run.setting}/{run.run}/{stage}"] = (run, stage, Evaluation.load(matrices))
    return found


def paired_differences(params: Any, output: RunOutput) -> pd.DataFrame:
    """Every final evaluation minus the baseline's, on the same images, with 95 % intervals.

    The same images are drawn for both, so that what makes an image hard cancels out. The baseline is
    ``params.baseline``, or the first evaluation found.

    Returns:
        A row per evaluation, mode and figure; empty where there is nothing to compare.

    Raises:
        ValueError: there is no such baseline, or the images differ.
    """
    final = {key: one[2] for key, one in _evaluations(params).items() if one[1] != "before"}
    if params.baseline is not None and params.baseline not in final:
        raise ValueError(
            f"baseline {params.baseline!r} is none of the evaluations: {', '.join(final) or 'there are none'}"
        )
    baseline = params.baseline or next(iter(final), None)
    others = [key for key in final if key != baseline]
    if not others:
        print("a comparison needs two scored runs")
        return pd.DataFrame()
    tables = []
    for key in others:
        for result in score_all(final[key], [params.protocol]):
            table = compare(
                final[baseline], final[key], params.protocol, result.mode, samples=params.intervals, seed=params.seed
            )
            table = table[table["figure"].isin(FIGURES)].rename(columns={"first": "baseline", "second": "run"})
            tables.append(table.assign(evaluation=key, against=baseline))
    merged = pd.concat(tables, ignore_index=True)
    columns = ["evaluation", "against", "mode", "figure", "baseline", "run", "value", "low", "high", "protocol"]
    merged = merged[columns].rename(columns={"value": "difference"})
    return output.table(merged, "differences", title=f"Differences from {baseline}, 95 % intervals over images")


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


def beside_published(params: Any, output: RunOutput) -> None:
    """Our runs and the published figures of the same dataset and setting: a table per protocol, never one of several.

    Our figures are read from stored counts under the very protocol of the published ones. Published figures whose
    protocol the source does not say stand in a table of their own, with nothing beside them.
    """
    if not params.published:
        print("published figures are not shown (published)")
        return
    runs = [(run, stage, one) for run, stage, one in _evaluations(params).values() if stage != "before"]
    wanted = {(_published_setting(run.params), _scored_on(run.params)) for run, _, _ in runs}
    found = [published_results(dataset, setting) for setting, dataset in sorted(wanted)]
    published = pd.concat([rows for rows in found if len(rows)] or [published_results().iloc[:0]], ignore_index=True)
    if published.empty:
        print("nothing is published for the datasets and settings of these runs")
        return
    published["detail"] = (published["backbone"] + " " + published["finetuning"]).str.strip()
    for protocol, rows in published.groupby("protocol", sort=False):
        name = protocol or "protocol_not_stated"
        mine = _read_under(protocol, runs) if protocol else []
        table = pd.concat([pd.DataFrame(mine), rows], ignore_index=True).reindex(columns=BESIDE)
        heading = f"Protocol {protocol}" if protocol else "Protocol not stated by the source"
        display(Markdown(f"**{heading}**"), output.table(table, f"published_{name}", title=f"Published: {heading}"))


def _read_under(protocol: str, runs: Sequence[tuple[RunRecord, str, Evaluation]]) -> list[dict[str, Any]]:
    rows = []
    for run, stage, evaluation in runs:
        for result in score_all(evaluation, [protocol]):
            figures = {key: result.summary[key] for key in FIGURES}
            rows.append(
                {
                    "source": "this workbook",
                    "system": run.notebook.partition("_")[2],
                    "detail": f"{run.run}, {stage}",
                    "setting": _published_setting(run.params),
                    "dataset": _scored_on(run.params),
                    "mode": result.mode,
                    "protocol": protocol,
                    "evidence": f"measured here, {evaluation.images} images",
                }
                | figures
            )
    return rows


def _scored_on(params: dict[str, Any]) -> str:
    return params.get("test_dataset") or params.get("dataset", "")


def _published_setting(params: dict[str, Any]) -> str:
    """The setting's name in the published tables, which say of a cross-dataset run from where to where."""
    if params.get("test_dataset"):
        return f"cross_dataset_{params['dataset']}_to_{params['test_dataset']}"
    return params.get("setting", "")

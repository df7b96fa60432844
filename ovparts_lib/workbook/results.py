"""Finished runs beside each other, and beside published numbers of the same protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ovparts_lib import inspection
from ovparts_lib.evaluation.bootstrap import compare
from ovparts_lib.evaluation.protocols import score_all
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.evaluation.tables import (
    merge_tables,
    published_object_results,
    published_results,
    refuse_differences,
    summary_table,
)
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import find_runs, resolve_path
from ovparts_lib.runs.listing import RunRecord

FIGURES = ["seen", "unseen", "harmonic", "mIoU"]
BESIDE = ["source", "system", "detail", "setting", "dataset", "mode", *FIGURES, "protocol", "evidence"]


@dataclass(frozen=True)
class Stored:
    """The counts of one evaluation of a complete run.

    Attributes:
        run: the run.
        stage: ``before`` or ``after`` training, or ``checkpoint``.
        evaluation: the counts.
    """

    run: RunRecord
    stage: str
    evaluation: Evaluation

    @property
    def scored_on(self) -> str:
        """The dataset scored on."""
        return self.run.params.get("test_dataset") or self.run.params.get("dataset", "")

    @property
    def system(self) -> str:
        """The system's name, which its notebook has too."""
        return self.run.notebook.partition("_")[2]

    @property
    def published_setting(self) -> str:
        """The setting's name in the published tables, which say of a cross-dataset run from where to where."""
        if self.run.params.get("test_dataset"):
            return f"cross_dataset_{self.run.params['dataset']}_to_{self.run.params['test_dataset']}"
        return self.run.params.get("setting", "")


def stored_evaluations(outputs: str, settings: Sequence[str]) -> dict[str, Stored]:
    """Counts of all complete runs of some settings, of all for none, by ``setting/run/stage``."""
    found = {}
    for run in find_runs(resolve_path(outputs), settings):
        if run.state == "complete":
            for matrices in sorted((run.path / "evaluation").glob("*/matrices.npz")):
                stage = matrices.parent.name
                found[f"{run.setting}/{run.run}/{stage}"] = Stored(run, stage, Evaluation.load(matrices))
    return found


def compare_runs(evaluations: Mapping[str, Stored], protocol: str) -> Iterator[Panel]:
    """All evaluations under one protocol, computed anew from their counts: a table, a chart, and what it cannot read.

    Raises:
        ProtocolMismatchError: the runs differ in vocabulary or in images; name the settings that belong together.
    """
    tables, about = {}, {}
    for key, stored in evaluations.items():
        results = score_all(stored.evaluation, [protocol])
        if results:
            tables[key] = summary_table(results)
            about[key] = {
                "setting": stored.run.setting,
                "run": stored.run.run,
                "system": stored.system,
                "dataset": stored.scored_on,
                "stage": stored.stage,
                "data": stored.run.provenance.get("dataset_fingerprint", ""),
                "scored_images": stored.evaluation.images,
            }
    title = f"Runs under the protocol {protocol}"
    if not tables:
        scored = "nothing has been scored yet" if not evaluations else "it reads none of what has been scored"
        yield Panel("runs", title=title, caption=scored)
        return
    # figures over other images do not belong in one table, whatever the protocol
    refuse_differences({key: pd.DataFrame([facts]) for key, facts in about.items()}, ["data", "scored_images"])
    merged = merge_tables(tables)
    table = pd.concat([pd.DataFrame([about[key] for key in merged["run"]]), merged.drop(columns="run")], axis=1)
    shown = table[["setting", "run", "stage", "mode", *FIGURES, "protocol"]]
    yield Panel("runs_shown", table=shown, title=title)
    caption = "mIoU over seen and unseen classes, and their harmonic mean, per run and stage."
    yield inspection.run_bars(table.assign(label=table["run"] + ", " + table["stage"]), "runs", title, caption)
    if left_out := [key for key in evaluations if key not in tables]:
        yield Panel("runs_left_out", title=f"Not read by the protocol {protocol}", caption=", ".join(left_out))


def paired_differences(
    evaluations: Mapping[str, Stored], protocol: str, baseline: str | None, samples: int, seed: int
) -> Panel:
    """Every final evaluation minus the baseline's, on the same images, with 95 % intervals.

    The same images are drawn for both, so that what makes an image hard cancels out.

    Args:
        evaluations: of :func:`stored_evaluations`.
        protocol: by name.
        baseline: ``setting/run/stage``; None for the first evaluation that the protocol reads.
        samples: sets of images drawn.
        seed: of the draw.

    Returns:
        A table of a row per evaluation, mode and figure.

    Raises:
        ValueError: there is no such baseline, the protocol does not read it, or the images differ.
    """
    final = {key: stored.evaluation for key, stored in evaluations.items() if stored.stage != "before"}
    read = {key: results for key, each in final.items() if (results := score_all(each, [protocol]))}
    if baseline is not None and baseline not in read:
        known = ", ".join(read) or "there are none"
        raise ValueError(f"baseline {baseline!r} is none of those that the protocol {protocol} reads: {known}")
    baseline, tables = baseline or next(iter(read), None), []
    for key in [key for key in read if key != baseline]:
        for result in read[key]:
            table = compare(final[baseline], final[key], protocol, result.mode, samples=samples, seed=seed)
            table = table[table["figure"].isin(FIGURES)].rename(columns={"first": "baseline", "second": "run"})
            tables.append(table.assign(evaluation=key, against=baseline))
    title = f"Differences from {baseline}, 95 % intervals over images"
    if not tables:
        caption = f"a comparison needs two scored runs that the protocol {protocol} reads"
        return Panel("differences", title="Differences between runs", caption=caption)
    columns = ["evaluation", "against", "mode", "figure", "baseline", "run", "value", "low", "high", "protocol"]
    merged = pd.concat(tables, ignore_index=True)[columns].rename(columns={"value": "difference"})
    return Panel("differences", table=merged, title=title)


def beside_published(evaluations: Mapping[str, Stored]) -> Iterator[Panel]:
    """Our runs and the published figures of the same dataset and setting: a table per protocol, never one of several.

    Our figures are read from stored counts under the very protocol of the published ones. Published figures whose
    protocol the source does not say stand in a table of their own, with nothing beside them.
    """
    final = [stored for stored in evaluations.values() if stored.stage != "before"]
    settings = sorted({(stored.published_setting, stored.scored_on) for stored in final})
    found = [published_results(dataset, setting) for setting, dataset in settings]
    # of whole objects the literature states no setting but the dataset scored on
    objects = sorted({stored.scored_on for stored in final if stored.run.params.get("setting") == "object_level"})
    found += [published_object_results(dataset).rename(columns={"value": "mIoU"}) for dataset in objects]
    found = [rows for rows in found if len(rows)]
    if not found:
        yield Panel("published", title="Published figures", caption="none for the datasets and settings of these runs")
        return
    published = pd.concat(found, ignore_index=True)
    told = published.reindex(columns=["backbone", "finetuning", "trained_on"]).fillna("")
    published["detail"] = told.agg(" ".join, axis=1).str.split().str.join(" ")
    for protocol, rows in published.groupby("protocol", sort=False):
        comparable = [stored for stored in final if stored.scored_on in set(rows["dataset"])]
        ours = pd.DataFrame(_read_under(protocol, comparable) if protocol else [])
        table = pd.concat([ours, rows], ignore_index=True).reindex(columns=BESIDE)
        title = f"Published, protocol {protocol}" if protocol else "Published, protocol not stated by the source"
        yield Panel(f"published_{protocol or 'protocol_not_stated'}", table=table, title=title)


def _read_under(protocol: str, final: Sequence[Stored]) -> list[dict[str, Any]]:
    return [
        {
            "source": "this workbook",
            "system": stored.system,
            "detail": f"{stored.run.run}, {stored.stage}",
            "setting": stored.published_setting,
            "dataset": stored.scored_on,
            "mode": result.mode,
            "protocol": protocol,
            "evidence": f"measured here, {stored.evaluation.images} images",
        }
        | {key: result.summary.get(key) for key in FIGURES}
        for stored in final
        for result in score_all(stored.evaluation, [protocol])
    ]

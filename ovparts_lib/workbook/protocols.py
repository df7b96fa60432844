"""One run's stored counts under every protocol, as a notebook shows them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ovparts_lib import inspection
from ovparts_lib.evaluation import (
    PROTOCOLS,
    Evaluation,
    bootstrap,
    object_rates,
    part_rates,
    protocol_comparison,
    protocol_notes,
    score_all,
)
from ovparts_lib.evaluation.sg_iou import load_fathers, sg_iou
from ovparts_lib.runs import resolve_path
from ovparts_lib.workbook.output import RunOutput

HEADLINE = ("seen", "unseen", "harmonic", "mIoU")


def load_evaluation(params: Any, output: RunOutput) -> Evaluation:
    """The counts that a run has stored.

    Raises:
        MatrixFileError: the run has no such evaluation, or its file is damaged.
    """
    evaluation = Evaluation.load(resolve_path(params.scored_run) / "evaluation" / params.stage)
    output.note(scored_run=params.scored_run, stage=params.stage, vocabulary_hash=evaluation.vocabulary.hash)
    return evaluation


def describe_protocols() -> pd.DataFrame:
    """Every protocol with its version, the modes it reads and its rule in words."""
    rows = [
        {"protocol": name, "version": each.version, "modes": ", ".join(each.modes), "rule": each.description}
        for name, each in PROTOCOLS.items()
    ]
    return pd.DataFrame(rows)


def under_every_protocol(evaluation: Evaluation, output: RunOutput) -> pd.DataFrame:
    """The evaluation under every protocol that can read it: all figures as a table, the headline as a chart per mode.

    Returns:
        The headline figures: a row per mode and protocol.
    """
    long = protocol_comparison(evaluation)
    output.table(long, "protocols", title="All figures under every protocol")
    wide = long[long["figure"].isin(HEADLINE)].pivot_table(
        index=["mode", "protocol", "version"], columns="figure", values="value", dropna=False, sort=False
    )
    table = wide.dropna(how="all").reset_index()[["mode", "protocol", "version", *HEADLINE]]
    for mode, rows in table.groupby("mode", sort=False):
        output.figure(
            inspection.run_bars(rows.assign(label=rows["protocol"])),
            f"protocols_{mode}",
            title=f"One set of predictions under every protocol, {mode.replace('_', '-')}",
            caption="The same stored counts, read by each protocol. Bars of different protocols are not comparable as "
            "results: their difference is the protocol.",
            data=rows,
        )
    return table


def semantics_guided(evaluation: Evaluation, output: RunOutput) -> pd.DataFrame:
    """SG-IoU beside the vanilla metric, and which classes gain, for class lists with a table of fathers.

    Returns:
        A row per metric: mIoU, fwIoU, mACC, pACC in percent; empty where the class list has no table.
    """
    vocabulary = evaluation.vocabulary
    fathers = load_fathers(vocabulary.name)
    if not fathers:
        print(f"SG-IoU is the vanilla IoU for {vocabulary.name}: no class is listed as a kind of another")
        return pd.DataFrame()
    found = sg_iou(evaluation.matrices["pred_all"].numpy(), vocabulary.classes, fathers)
    names = [", ".join(vocabulary.classes[each] for each in fathers.get(i, ())) for i in range(len(vocabulary.classes))]
    gains = found.classes.assign(fathers=names).rename_axis("class").reset_index()
    gains = gains[gains["gain"] > 0].sort_values("gain", ascending=False)
    output.table(gains, "sg_iou_classes", title="Classes that gain from SG-IoU, percentage points")
    table = pd.DataFrame(found.summary).T.rename_axis("metric").reset_index()
    return output.table(table, "sg_iou", title="SG-IoU beside the vanilla metric, percent")


def why_they_differ(evaluation: Evaluation, output: RunOutput) -> pd.DataFrame:
    """Each rule in which a protocol departs from the recommended one; ``options`` says how scoring was done here."""
    table = protocol_notes(evaluation)
    return output.table(table, "differences", title="Why the figures differ")


def intervals_by_protocol(evaluation: Evaluation, params: Any, output: RunOutput) -> pd.DataFrame:
    """Confidence intervals over images of the headline figures, under every protocol."""
    tables = [
        bootstrap(evaluation, result.protocol, result.mode, samples=params.intervals, seed=params.seed)
        for result in score_all(evaluation)
    ]
    table = pd.concat(tables, ignore_index=True)
    table = table[table["figure"].isin(HEADLINE)].reset_index(drop=True)
    output.table(table, "intervals", title="95 % confidence intervals over images, by protocol")
    return table[["mode", "protocol", "figure", "value", "low", "high"]]


def segmentation_rates(evaluation: Evaluation, output: RunOutput) -> pd.DataFrame:
    """Over- and under-segmentation of each object in each mode; those of parts go into a table of their own."""
    objects = [object_rates(evaluation, mode) for mode in evaluation.modes]
    parts = [part_rates(evaluation, mode) for mode in evaluation.modes]
    output.table(pd.concat(parts, ignore_index=True), "part_rates", title="Over- and under-segmentation of parts")
    return output.table(
        pd.concat(objects, ignore_index=True), "object_rates", title="Over- and under-segmentation of objects"
    )

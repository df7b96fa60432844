"""Evaluation as a notebook uses it: matrices kept in the run folder, tables and figures made from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from IPython.display import display
from torch import nn

from ovparts_lib import inspection
from ovparts_lib.atomic import set_aside
from ovparts_lib.data import EvaluationDataset, classes_seen_in_training
from ovparts_lib.evaluation import (
    Evaluation,
    bootstrap,
    class_table,
    evaluate,
    merge_tables,
    score_all,
    summary_table,
)
from ovparts_lib.evaluation.counts import MatrixFileError
from ovparts_lib.runs import RunConflictError
from ovparts_lib.runs.project import display_path
from ovparts_lib.training.state import tensor_digest
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook.data import PartData, labelled_classes
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.systems import device_of

SUMMARY = ("seen", "unseen", "harmonic", "mIoU")
COUNTS = ("classes_seen", "classes_unseen", "records", "skipped_records", "images")
MODE_TITLES = {"oracle_obj": "oracle-obj", "pred_all": "pred-all"}


def evaluate_stage(model: nn.Module, data: PartData, params: Any, output: RunOutput, stage: str) -> Evaluation:
    """Score the test split in both modes and keep the confusion matrices in ``evaluation/<stage>/``.

    A run that is resumed reads what it has scored before; a damaged file is set aside, and the split scored again.

    Raises:
        RunConflictError: the stored counts are of other weights.
    """
    folder, weights = output.path / "evaluation" / stage, tensor_digest(model.state_dict())
    stored = folder / "matrices.npz"
    if stored.is_file():
        try:
            evaluation = Evaluation.load(folder, data.evaluation.vocabulary)
        except MatrixFileError as error:
            set_aside(stored, error)
        else:
            if evaluation.weights not in ("", weights):
                raise RunConflictError(
                    f"{display_path(stored)} holds counts of other weights than this run has at stage {stage!r}; "
                    "restore the weight files that the run began with, or start over with --again"
                )
            print(f"{stage}: scored before, read from {folder.name}")
            return evaluation
    evaluation = evaluate(model, data.evaluation, workers=params.workers, **evaluation_options(params))
    evaluation.weights = weights
    evaluation.save(folder)
    return evaluation


def evaluation_options(params: Any) -> dict[str, Any]:
    """How the parameters want scoring done: arguments of :func:`ovparts_lib.evaluation.evaluate`."""
    return {
        "device": device_of(params),
        "precision": params.precision,
        "limit": params.evaluation_limit,
        "boundary": params.boundary,
        "oracle_rule": params.oracle_rule,
        "double_resize": params.network_input if params.ground_truth == "double_resized" else None,
    }


def evaluate_before(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> Evaluation | None:
    """Score the weights training begins from, unless the parameters say no or nothing trains."""
    if not (params.iterations and params.evaluate_before_training):
        print("not scored before training, as the parameters say")
        return None
    return evaluate_stage(model, data, params, output, "before")


def quick_scores(dataset: EvaluationDataset, params: Any) -> Callable[[nn.Module, int], dict[str, float]]:
    """What the training loop calls every ``evaluate_every`` steps: (model, step) -> seen, unseen, harmonic per mode."""
    figures = ("seen", "unseen", "harmonic") if isinstance(dataset.vocabulary, PartVocabulary) else ("mIoU",)

    def scores(model: nn.Module, step: int) -> dict[str, float]:
        if step == params.iterations:
            return {}  # the notebook scores the final weights itself
        evaluation = evaluate(model, dataset, progress=False, strict=False, **evaluation_options(params))
        results = score_all(evaluation, params.protocols[:1])
        return {f"{one.mode}_{key}": one.summary[key] for one in results for key in figures}

    return scores


def summarise(output: RunOutput, params: Any, **stages: Evaluation | None) -> list[dict[str, Any]]:
    """Show the run's figures: a table per protocol, for protocols do not mix, with a row per stage and mode.

    Args:
        output: keeps the tables.
        params: ``protocols`` says which.
        stages: evaluations by stage name, such as ``before`` and ``after``; None is left out.

    Returns:
        The rows of all tables as plain data, for ``results.json``; each says its protocol.
    """
    headline = []
    for protocol in params.protocols:
        tables = {
            stage: summary_table(results)
            for stage, evaluation in stages.items()
            if evaluation is not None and (results := score_all(evaluation, [protocol]))
        }
        if not tables:
            print(f"the protocol {protocol} reads none of the modes that were scored")
            continue
        table = merge_tables(tables).rename(columns={"run": "stage"})
        output.table(table, f"summary_{protocol}", title=f"Summary, protocol {protocol}")
        shown = table[["protocol", "version", "stage", "mode", *SUMMARY, *COUNTS, "vocabulary_hash"]]
        display(shown)
        headline += shown.rename(columns={"stage": "label", "vocabulary_hash": "vocabulary"}).to_dict("records")
    return headline


def confidence_intervals(evaluation: Evaluation, params: Any, output: RunOutput) -> pd.DataFrame:
    """Intervals of each mode's figures over the choice of test images, under the first protocol defined for it."""
    if params.intervals is None:
        return pd.DataFrame()
    tables = [
        bootstrap(evaluation, protocol, mode, samples=params.intervals, seed=params.seed)
        for mode, protocol in _first_protocols(evaluation, params).items()
    ]
    table = pd.concat(tables, ignore_index=True)
    output.table(table, "intervals", title="95 % confidence intervals over images")
    return table[["mode", "protocol", "figure", "value", "low", "high"]]


def _first_protocols(evaluation: Evaluation, params: Any) -> dict[str, str]:
    """For each mode, the first of the protocols that can read it; modes that none can are left out."""
    results = score_all(evaluation, params.protocols)
    first = {mode: [one.protocol for one in results if one.mode == mode] for mode in evaluation.modes}
    return {mode: names[0] for mode, names in first.items() if names}


def class_tables(evaluation: Evaluation, params: Any, output: RunOutput) -> dict[str, pd.DataFrame]:
    """Per-class tables of each mode under the first protocol defined for it; classes without labels are left out."""
    tables = {}
    for mode, protocol in _first_protocols(evaluation, params).items():
        table = class_table(evaluation, protocol, mode)
        title = f"Per class, {MODE_TITLES[mode]}, protocol {protocol}"
        output.table(table, f"classes_{mode}", title=title)
        tables[mode] = table[table["pixels"] > 0].reset_index(drop=True)
    return tables


def class_figures(evaluation: Evaluation, tables: dict[str, pd.DataFrame], output: RunOutput) -> None:
    """IoU bars and heat map of each mode, and which parts of an object are taken for which."""
    for mode, table in tables.items():
        name, protocol = MODE_TITLES[mode], table["protocol"].iloc[0]
        output.figure(
            inspection.iou_bars(table),
            f"iou_bars_{mode}",
            title=f"IoU per class, {name}",
            caption=f"Parts are grouped by object; hatched classes are unseen. Protocol {protocol}.",
            data=table,
        )
        if not isinstance(evaluation.vocabulary, PartVocabulary):
            continue
        output.figure(
            inspection.iou_heatmap(table),
            f"iou_heatmap_{mode}",
            title=f"IoU by object and part, {name}",
            caption=f"Objects, unseen ones marked *, against generic parts. Protocol {protocol}.",
            data=table,
        )
    if isinstance(evaluation.vocabulary, PartVocabulary):
        confusion_figure(evaluation, output)


def confusion_figure(evaluation: Evaluation, output: RunOutput) -> None:
    """For each object, which of its parts are taken for which when the object is known."""
    vocabulary = evaluation.vocabulary
    counts = evaluation.matrices["oracle_obj"].numpy()[:, :-1].sum(axis=0)
    shown = [
        name
        for i, name in enumerate(vocabulary.objects)
        if sum(counts[part] > 0 for part in vocabulary.parts_of(i)) >= 2
    ]
    if not shown:
        return
    tables = {name: inspection.part_confusion_table(evaluation, name, "oracle_obj") for name in shown}
    data = pd.concat(tables, names=["object", "part"]).reset_index()
    output.figure(
        inspection.part_confusion(evaluation, objects=shown, mode="oracle_obj"),
        "part_confusion",
        title="Confusion between parts, oracle-obj",
        caption="Each row says what a part's labelled pixels were taken for, in percent; * marks unseen objects.",
        data=data,
    )


def seen_in_training(evaluation: Evaluation, data: PartData, params: Any, output: RunOutput) -> pd.DataFrame:
    """Mean IoU of the test classes that training has named and labelled, and of the others.

    The object-level benchmarks have no unseen classes of their own: which are, follows from the training list.

    Returns:
        A row each for seen and unseen: classes with labels, mean IoU under the first protocol (percent).
    """
    mode, protocol = next(iter(_first_protocols(evaluation, params).items()))
    table = class_table(evaluation, protocol, mode)
    known = classes_seen_in_training(labelled_classes(params, data), evaluation.vocabulary)
    table = table.assign(seen=known["seen"].to_numpy(), shown_as=known["training classes"].to_numpy())
    output.table(
        table[["part", "seen", "shown_as", "IoU", "pixels"]], "classes_by_training", title="Classes by training"
    )
    scored = table[table["pixels"] > 0]
    means = scored.groupby("seen")["IoU"].agg(["size", "mean"]).reset_index()
    means["seen"] = means["seen"].map({True: "seen in training", False: "unseen"})
    means.columns = ["classes of", "classes", "mean IoU"]
    return output.table(means.assign(protocol=protocol), "seen_in_training", title="Classes seen in training, or not")


def training_figures(history: pd.DataFrame, output: RunOutput) -> None:
    """Loss and learning rate over the steps, with the evaluations in between; nothing where nothing was trained."""
    if history.empty:
        return
    evaluated = history.filter(like="evaluation/").notna().any(axis=None)
    scored = "; marks where the model was scored during training" if evaluated else ""
    output.figure(
        inspection.training_curve(history),
        "training",
        title="Training",
        caption=f"Loss and learning rate per step{scored}.",
        data=history,
    )

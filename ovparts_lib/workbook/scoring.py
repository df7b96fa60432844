"""Evaluation as a notebook uses it: matrices kept in the run folder, panels made from them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
from torch import nn

from ovparts_lib import inspection
from ovparts_lib.atomic import set_aside
from ovparts_lib.data.audit import classes_seen_in_training
from ovparts_lib.data.dataset import EvaluationDataset
from ovparts_lib.evaluation.bootstrap import bootstrap
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.protocols import score_all
from ovparts_lib.evaluation.stored import Evaluation, MatrixFileError
from ovparts_lib.evaluation.tables import class_table, merge_tables, summary_table
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import RunConflictError
from ovparts_lib.runs.project import display_path
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.training.state import tensor_digest
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.systems import device_of

SUMMARY = ("seen", "unseen", "harmonic", "mIoU")
COUNTS = ("classes_seen", "classes_unseen", "records", "skipped_records", "images")


def evaluation_options(params: SystemOptions) -> dict[str, Any]:
    """How the parameters want scoring done: arguments of :func:`ovparts_lib.evaluation.evaluator.evaluate`."""
    resized = params.network_input if params.ground_truth == "double_resized" else None
    options = {"device": device_of(params), "limit": params.evaluation_limit, "double_resize": resized}
    return params.chosen("precision", "workers", "boundary", "oracle_rule") | options


def evaluate_stage(stage: str, model: nn.Module, dataset: Any, output: RunOutput, **options: Any) -> Evaluation:
    """Score the test split in both modes and keep the confusion matrices in ``evaluation/<stage>/``.

    A run that is resumed reads what it has scored before; a damaged file is set aside, and the split scored again.

    Args:
        stage: ``before`` or ``after`` training, or ``checkpoint``.
        model: the system.
        dataset: the test images.
        output: of the run.
        **options: of :func:`ovparts_lib.evaluation.evaluator.evaluate`.

    Raises:
        RunConflictError: the stored counts are of other weights.
    """
    folder, weights = output.path / "evaluation" / stage, tensor_digest(model.state_dict())
    stored = folder / "matrices.npz"
    if stored.is_file():
        try:
            evaluation = Evaluation.load(folder, dataset.vocabulary)
        except MatrixFileError as error:
            set_aside(stored, error)
        else:
            if evaluation.weights not in ("", weights):
                what = f"holds counts of other weights than this run has at stage {stage!r}; restore the files"
                raise RunConflictError(f"{display_path(stored)} {what}, or start over with --again")
            print(f"{stage}: scored before, read from {folder.name}")
            return evaluation
    evaluation = evaluate(model, dataset, **options)
    evaluation.weights = weights
    evaluation.save(folder)
    return evaluation


def quick_scores(dataset: EvaluationDataset, params: SystemOptions) -> Callable[[nn.Module, int], dict[str, float]]:
    """What the training loop calls every ``evaluate_every`` steps: (model, step) -> seen, unseen, harmonic per mode."""
    figures = ("seen", "unseen", "harmonic") if isinstance(dataset.vocabulary, PartVocabulary) else ("mIoU",)

    def scores(model: nn.Module, step: int) -> dict[str, float]:
        if step == params.iterations:
            return {}  # the notebook scores the final weights itself
        options = evaluation_options(params) | {"workers": 0}
        evaluation = evaluate(model, dataset, progress=False, strict=False, **options)
        results = score_all(evaluation, params.protocols[:1])
        return {f"{one.mode}_{key}": one.summary[key] for one in results for key in figures}

    return scores


def summaries(protocols: Sequence[str], **stages: Evaluation | None) -> list[Panel]:
    """A run's figures: a table per protocol, for protocols do not mix, with a row per stage and mode.

    Args:
        protocols: by name; one that reads none of the modes that were scored is left out.
        **stages: evaluations by stage name, such as ``before`` and ``after``; None is left out.
    """
    panels = []
    for protocol in protocols:
        tables = {
            stage: summary_table(results)
            for stage, evaluation in stages.items()
            if evaluation is not None and (results := score_all(evaluation, [protocol]))
        }
        if tables:
            table = merge_tables(tables).rename(columns={"run": "stage"})
            table = table[["protocol", "version", "stage", "mode", *SUMMARY, *COUNTS, "vocabulary_hash"]]
            panels.append(Panel(f"summary_{protocol}", table=table, title=f"Summary, protocol {protocol}"))
    return panels


def confidence_intervals(evaluation: Evaluation, protocols: Sequence[str], samples: int | None, seed: int) -> Panel:
    """Intervals of each mode's figures over the choice of test images, under the first protocol defined for it.

    Args:
        evaluation: the counts.
        protocols: by name.
        samples: sets of images drawn; None draws none.
        seed: of the draw.
    """
    title = "95 % confidence intervals over images"
    if samples is None:
        return Panel("intervals", title=title, caption="switched off (intervals)")
    first = _first_protocols(evaluation, protocols)
    tables = [bootstrap(evaluation, first[mode], mode, samples=samples, seed=seed) for mode in first]
    return Panel("intervals", table=pd.concat(tables, ignore_index=True), title=title)


def _first_protocols(evaluation: Evaluation, protocols: Sequence[str]) -> dict[str, str]:
    """For each mode, the first of the protocols that can read it; modes that none can are left out."""
    results = score_all(evaluation, protocols)
    first = {mode: [one.protocol for one in results if one.mode == mode] for mode in evaluation.modes}
    return {mode: names[0] for mode, names in first.items() if names}


def class_tables(evaluation: Evaluation, protocols: Sequence[str]) -> list[Panel]:
    """IoU, recall and precision of every class, a table per mode, under the first protocol defined for it."""
    panels = []
    for mode, protocol in _first_protocols(evaluation, protocols).items():
        title = f"Per class, {mode.replace('_', '-')}, protocol {protocol}"
        panels.append(Panel(f"classes_{mode}", table=class_table(evaluation, protocol, mode), title=title))
    return panels


def class_charts(evaluation: Evaluation, tables: Sequence[Panel]) -> Iterator[Panel]:
    """IoU bars of each mode; of parts also a heat map, and which parts of an object are taken for which."""
    parts = isinstance(evaluation.vocabulary, PartVocabulary)
    for panel in tables:
        yield inspection.iou_bars(panel.table)
        if parts:
            yield inspection.iou_heatmap(panel.table)
    if parts:
        yield inspection.part_confusion(evaluation, "oracle_obj")


def seen_in_training(evaluation: Evaluation, protocols: Sequence[str], trained: Vocabulary) -> Iterator[Panel]:
    """Mean IoU of the test classes that training has named and labelled, and of the others; then which they are.

    The object-level benchmarks have no unseen classes of their own: which are, follows from the training list.

    Args:
        evaluation: the counts.
        protocols: by name; the first defined for the mode is taken.
        trained: the classes that training has named and labelled.
    """
    mode, protocol = next(iter(_first_protocols(evaluation, protocols).items()))
    known = classes_seen_in_training(trained, evaluation.vocabulary)
    table = class_table(evaluation, protocol, mode)[["part", "IoU", "pixels"]]
    table = table.assign(seen=known["seen"].to_numpy(), shown_as=known["training classes"].to_numpy())
    means = table[table["pixels"] > 0].groupby("seen")["IoU"].agg(["size", "mean"]).reset_index()
    means["seen"] = means["seen"].map({True: "seen in training", False: "unseen"})
    means.columns = ["classes of", "classes", "mean IoU"]
    means = means.assign(protocol=protocol)
    yield Panel("seen_in_training", table=means, title="Classes seen in training, or not")
    yield Panel("classes_by_training", table=table, title="Classes by training")

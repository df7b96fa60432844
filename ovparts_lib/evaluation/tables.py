"""Tables: per class, per run, and of one evaluation under every protocol; each says which protocol made it.

And published results, as data beside our own.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import pandas as pd

from ovparts_lib.evaluation.protocols import ProtocolResult, protocol_named, score_all
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.vocabularies import PartVocabulary

IDENTITY = ("protocol", "version", "vocabulary", "vocabulary_hash", "options")


class ProtocolMismatchError(ValueError):
    """Figures that must not stand in one table: the message says what differs."""


def class_table(evaluation: Evaluation, protocol: str = "recommended", mode: str = "oracle_obj") -> pd.DataFrame:
    """One row per class, in label order.

    Returns:
        Columns object, part (``"dog's head"``), generic (``"head"``; all three the class itself where classes are not
        parts), seen, IoU, recall, precision (percent; NaN where
        undefined), pixels (labelled), images (in which it is labelled), predicted_pixels, predicted_only, boundary_IoU,
        and the constants mode, protocol, version, vocabulary_hash, options, records, scored_images.

    Raises:
        ValueError: no such protocol.
        UnsupportedModeError: the protocol or the evaluation lacks the mode.
    """
    result, vocabulary = protocol_named(protocol)(evaluation, mode), evaluation.vocabulary
    of_parts = isinstance(vocabulary, PartVocabulary)
    pairs = vocabulary.pairs if of_parts else [(name, name) for name in vocabulary.classes]
    names = pd.DataFrame(pairs, columns=["object", "generic"])
    names.insert(1, "part", vocabulary.classes)
    table = names.assign(seen=[*map(vocabulary.is_seen, range(len(pairs)))]).join(result.classes)
    table.insert(table.columns.get_loc("pixels") + 1, "images", np.asarray(evaluation.class_images))
    identity = evaluation.identity(mode, "scored_images", protocol=result.protocol, version=result.version)
    return table.assign(**identity)


def summary_table(results: Sequence[ProtocolResult]) -> pd.DataFrame:
    """One row per result: mode, group means with the classes averaged, further figures, what was counted, protocol.

    Args:
        results: of one protocol, version, vocabulary and way of scoring; typically the modes of one evaluation.

    Raises:
        ProtocolMismatchError: the results differ in protocol, version, vocabulary or options of scoring.
    """
    rows = [
        {"mode": result.mode, **result.summary, **result.counts} | {key: getattr(result, key) for key in IDENTITY}
        for result in results
    ]
    refuse_differences({f"result {i} ({row['mode']})": pd.DataFrame([row]) for i, row in enumerate(rows)}, IDENTITY)
    return pd.DataFrame(rows)


def merge_tables(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Summary tables of several runs in one, with the run's name in the first column.

    Args:
        tables: summary tables by run name, as :func:`summary_table` made them or read back from CSV.

    Raises:
        ProtocolMismatchError: they differ in protocol, version, vocabulary, options of scoring or set of modes; nothing
            is converted.
        ValueError: one is not a summary table.
    """
    for run, table in tables.items():
        missing = [column for column in (*IDENTITY, "mode") if column not in table]
        if missing or table.empty:
            raise ValueError(f"the table of {run!r} is no summary table: it lacks {', '.join(missing) or 'rows'}")
    modes = {run: table.assign(modes=", ".join(sorted(set(table["mode"])))) for run, table in tables.items()}
    refuse_differences(modes, (*IDENTITY, "modes"))
    merged = pd.concat([table.assign(run=run) for run, table in tables.items()], ignore_index=True)
    return merged[["run", *merged.columns.drop("run")]]


def refuse_differences(tables: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> None:
    """Raise ProtocolMismatchError where tables hold more than one value of a column, naming which holds which."""
    differences = []
    for column in columns:
        holders: dict[str, list[str]] = {}
        for name, table in tables.items():
            for value in table[column].unique():
                holders.setdefault(str(value), []).append(name)
        if len(holders) > 1:
            found = "; ".join(f"{value!r} in {', '.join(names)}" for value, names in holders.items())
            differences.append(f"{column}: {found}")
    if differences:
        raise ProtocolMismatchError("figures of different kinds do not belong in one table. " + ". ".join(differences))


def protocol_comparison(evaluation: Evaluation) -> pd.DataFrame:
    """Every figure of every mode under every protocol that reads the evaluation.

    This compares *protocols*: all of them read the same predictions, and the rows are not comparable with one another.

    Returns:
        Long: mode, protocol, version, figure, value, difference (from ``recommended`` in the same mode; for evaluations
        of objects, which it does not read, from the first protocol), records, images, vocabulary_hash, options.
    """
    results = score_all(evaluation)
    references = {result.mode: result for result in reversed(results)}  # "recommended" is the first of the protocols
    rows = [
        evaluation.identity(result.mode, protocol=result.protocol, version=result.version)
        | {
            "figure": figure,
            "value": result.summary[figure],
            "difference": result.summary[figure] - references[result.mode].summary[figure],
        }
        for result in results
        for figure in result.summary
        if "_classes" not in figure  # of the means of recall and of boundaries
    ]
    return pd.DataFrame(rows)


def protocol_notes(evaluation: Evaluation) -> pd.DataFrame:
    """Each rule in which a protocol that reads the evaluation departs from ``recommended``.

    Returns:
        A row per mode, protocol and rule: mode, protocol, version, records, images, vocabulary_hash, options (with
        which the evaluation was scored), rule (a few words), explanation (a sentence that can be cited).
    """
    rows = [
        evaluation.identity(result.mode, protocol=result.protocol, version=result.version) | note
        for result in score_all(evaluation)
        for note in protocol_named(result.protocol).notes
    ]
    columns = ["mode", "protocol", "version", "records", "images", "vocabulary_hash", "options", "rule", "explanation"]
    return pd.DataFrame(rows, columns=columns)


def published_results(dataset: str | None = None, setting: str | None = None) -> pd.DataFrame:
    """Published mIoU figures of part segmentation in percent, one row per (system, dataset, mode).

    ``mode`` is ``oracle_obj`` or ``pred_all`` (OV-PARTS calls the latter Pred-Obj). ``protocol`` names the evaluator
    behind the figures as one of ours, empty where the source does not say; ``evidence`` is ``primary`` for figures read
    in the authors' own publication, ``secondary`` for a transcription of it, ``issue`` for a statement in an issue
    thread and ``derived`` for arithmetic on such figures. Rows of different protocols are not comparable with one
    another.

    Args:
        dataset: keep one vocabulary's rows, such as ``"pascal_part_116"``.
        setting: keep one setting's rows, such as ``"zero_shot"``.

    Returns:
        Columns system, backbone, finetuning, setting, dataset, mode, mIoU, seen, unseen, harmonic, protocol, evidence,
        source; figures are NaN where the source gives none.
    """
    return _published("results", dataset, setting)


def published_metrics(dataset: str | None = None, setting: str | None = None) -> pd.DataFrame:
    """Published figures of part segmentation beside the mIoU of :func:`published_results`.

    Recall, boundary IoU, mask AP of instances, over- and under-segmentation, results of the OV-PARTS challenge, and
    mIoU whose mode the source does not say. ``dataset`` is a vocabulary of ours where it is one of them.

    Returns:
        Columns system, backbone, finetuning, setting, dataset, mode, metric, overall, seen, unseen, protocol, evidence,
        source, note.
    """
    return _published("metrics", dataset, setting)


def published_object_results(dataset: str | None = None, setting: str | None = None) -> pd.DataFrame:
    """Published mIoU of open-vocabulary segmentation of whole objects (OVSeg and SCAN, and what they list).

    ``setting`` is ``open_vocabulary``, or ``supervised`` for systems trained on the dataset they are tested on.

    Returns:
        Columns system, backbone, trained_on, setting, dataset, metric, value, protocol, evidence, source, note.
    """
    return _published("objects", dataset, setting)


def _published(kind: str, dataset: str | None, setting: str | None) -> pd.DataFrame:
    texts = ("backbone", "finetuning", "trained_on", "mode", "protocol", "note")  # which may be empty
    with files(__package__).joinpath(f"published_{kind}.csv").open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, dtype=dict.fromkeys(texts, str))
    frame = frame.fillna(dict.fromkeys(texts, ""))
    for column, value in (("dataset", dataset), ("setting", setting)):
        frame = frame if value is None else frame[frame[column] == value]
    return frame.reset_index(drop=True)

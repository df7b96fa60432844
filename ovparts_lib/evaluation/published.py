"""Published results, as data beside our own."""

from importlib.resources import files

import pandas as pd


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
    return _kept(_read("published_results.csv", ["backbone", "finetuning", "protocol"]), dataset, setting)


def published_metrics(dataset: str | None = None, setting: str | None = None) -> pd.DataFrame:
    """Published figures of part segmentation beside the mIoU of :func:`published_results`.

    Recall, boundary IoU, mask AP of instances, over- and under-segmentation, results of the OV-PARTS challenge, and
    mIoU whose mode the source does not say. ``dataset`` is a vocabulary of ours where it is one of them.

    Returns:
        Columns system, backbone, finetuning, setting, dataset, mode, metric, overall, seen, unseen, protocol, evidence,
        source, note.
    """
    texts = ["backbone", "finetuning", "mode", "protocol", "note"]
    return _kept(_read("published_metrics.csv", texts), dataset, setting)


def published_object_results(dataset: str | None = None, setting: str | None = None) -> pd.DataFrame:
    """Published mIoU of open-vocabulary segmentation of whole objects (OVSeg and SCAN, and what they list).

    ``setting`` is ``open_vocabulary``, or ``supervised`` for systems trained on the dataset they are tested on.

    Returns:
        Columns system, backbone, trained_on, setting, dataset, metric, value, protocol, evidence, source, note.
    """
    return _kept(_read("published_objects.csv", ["backbone", "trained_on", "protocol", "note"]), dataset, setting)


def _read(name: str, texts: list[str]) -> pd.DataFrame:
    with files(__package__).joinpath(name).open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, keep_default_na=True, dtype=dict.fromkeys(texts, str))
    frame[texts] = frame[texts].fillna("")
    return frame


def _kept(frame: pd.DataFrame, dataset: str | None, setting: str | None) -> pd.DataFrame:
    if dataset is not None:
        frame = frame[frame["dataset"] == dataset]
    if setting is not None:
        frame = frame[frame["setting"] == setting]
    return frame.reset_index(drop=True)

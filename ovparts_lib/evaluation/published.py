"""Published results on the part benchmarks, as data beside our own."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd


def published_results(dataset: str | None = None, setting: str | None = None) -> pd.DataFrame:
    """Published mIoU figures in percent, one row per (system, dataset, mode).

    ``mode`` is ``oracle_obj`` or ``pred_all`` (OV-PARTS calls the latter Pred-Obj). ``protocol`` names the evaluator
    behind the figures, empty where the source does not say; ``evidence`` is ``primary`` for figures read in the
    authors' own publication, ``secondary`` for a transcription of it, ``issue`` for a statement in an issue thread and
    ``derived`` for arithmetic on such figures. Rows of different protocols are not comparable with one another.

    Args:
        dataset: keep one vocabulary's rows, such as ``"pascal_part_116"``.
        setting: keep one setting's rows, such as ``"zero_shot"``.

    Returns:
        Columns system, backbone, finetuning, setting, dataset, mode, mIoU, seen, unseen, harmonic, protocol, evidence,
        source; figures are NaN where the source gives none.
    """
    with files(__package__).joinpath("published_results.csv").open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, keep_default_na=True)
    texts = ["backbone", "finetuning", "protocol"]
    frame[texts] = frame[texts].fillna("")
    if dataset is not None:
        frame = frame[frame["dataset"] == dataset]
    if setting is not None:
        frame = frame[frame["setting"] == setting]
    return frame.reset_index(drop=True)

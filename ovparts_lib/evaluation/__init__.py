"""Evaluation: confusion matrices counted once, read under any protocol, and the tables made from them."""

from ovparts_lib.evaluation.confusion import ConfusionMatrix, MatrixFileError
from ovparts_lib.evaluation.evaluator import MODES, Evaluation, NotANumberError, evaluate, score_image, to_target
from ovparts_lib.evaluation.label_maps import oracle_map, pred_all_map, upsampled_argmax
from ovparts_lib.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    ProtocolResult,
    UnsupportedModeError,
    harmonic_mean,
    ov_parts,
    recommended,
    score_all,
)
from ovparts_lib.evaluation.published import published_results
from ovparts_lib.evaluation.tables import ProtocolMismatchError, class_table, merge_tables, summary_table

__all__ = [
    "MODES",
    "PROTOCOLS",
    "ConfusionMatrix",
    "Evaluation",
    "MatrixFileError",
    "NotANumberError",
    "Protocol",
    "ProtocolMismatchError",
    "ProtocolResult",
    "UnsupportedModeError",
    "class_table",
    "evaluate",
    "harmonic_mean",
    "merge_tables",
    "oracle_map",
    "ov_parts",
    "pred_all_map",
    "published_results",
    "recommended",
    "score_all",
    "score_image",
    "summary_table",
    "to_target",
    "upsampled_argmax",
]

"""Evaluation: confusion matrices counted once, read under any protocol, and the tables made from them."""

from ovparts_lib.evaluation.bootstrap import bootstrap, compare
from ovparts_lib.evaluation.boundary import class_boundary_counts, label_difference
from ovparts_lib.evaluation.evaluator import double_resized, evaluate
from ovparts_lib.evaluation.label_maps import oracle_map, pred_all_map
from ovparts_lib.evaluation.protocols import (
    PROTOCOLS,
    Boundaries,
    Note,
    Protocol,
    ProtocolResult,
    UnsupportedModeError,
    protocol_named,
    score_all,
)
from ovparts_lib.evaluation.scoring import MODES, ImageScore, NotANumberError, count_pairs, score_image, to_target
from ovparts_lib.evaluation.segmentation_rates import object_rates, part_rates
from ovparts_lib.evaluation.stored import Evaluation, MatrixFileError
from ovparts_lib.evaluation.tables import (
    ProtocolMismatchError,
    class_table,
    merge_tables,
    protocol_comparison,
    protocol_notes,
    published_metrics,
    published_object_results,
    published_results,
    summary_table,
)

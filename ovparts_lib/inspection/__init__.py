"""Inspection: pictures of what a system did.

Functions that draw return a matplotlib Figure that pyplot does not know; it is shown once, as the value of a notebook
cell. Functions called ``render_…`` return uint8 pictures at full size.
"""

from ovparts_lib.inspection.attention import (
    SOURCES,
    attention_map,
    attention_table,
    clip_attention,
    decoder_attention,
    peak_patch,
    render_heat,
    score_maps,
    score_table,
)
from ovparts_lib.inspection.attention_statistics import (
    attention_by_class,
    attention_changes,
    attention_comparison,
    attention_statistics,
)
from ovparts_lib.inspection.calibration import calibrated_proposals, calibration_table, changed_by_integration
from ovparts_lib.inspection.charts import frequency_bars, iou_bars, iou_grid, iou_heatmap
from ovparts_lib.inspection.confusions import part_confusion, part_confusion_table
from ovparts_lib.inspection.cost import class_attention, class_attention_table, cost_maps, cost_table
from ovparts_lib.inspection.curves import run_bars, training_curve
from ovparts_lib.inspection.ensemble import opinion_table, opinions, search_heatmap
from ovparts_lib.inspection.figures import save_figure, save_picture
from ovparts_lib.inspection.overlays import (
    comparison,
    comparison_grid,
    comparison_table,
    label_grid,
    overlay,
    picture_grid,
    render_error,
    render_overlay,
)
from ovparts_lib.inspection.palette import class_colours
from ovparts_lib.inspection.part_attention import (
    composition,
    composition_table,
    part_attention,
    part_attention_table,
)
from ovparts_lib.inspection.proposals import proposal_grid, proposal_table
from ovparts_lib.inspection.widgets import browse

__all__ = [
    "SOURCES",
    "attention_by_class",
    "attention_changes",
    "attention_comparison",
    "attention_map",
    "attention_statistics",
    "attention_table",
    "browse",
    "calibrated_proposals",
    "calibration_table",
    "changed_by_integration",
    "class_attention",
    "class_attention_table",
    "class_colours",
    "clip_attention",
    "comparison",
    "comparison_grid",
    "comparison_table",
    "composition",
    "composition_table",
    "cost_maps",
    "cost_table",
    "decoder_attention",
    "frequency_bars",
    "iou_bars",
    "iou_grid",
    "iou_heatmap",
    "label_grid",
    "opinion_table",
    "opinions",
    "overlay",
    "part_attention",
    "part_attention_table",
    "part_confusion",
    "part_confusion_table",
    "peak_patch",
    "picture_grid",
    "proposal_grid",
    "proposal_table",
    "render_error",
    "render_heat",
    "render_overlay",
    "run_bars",
    "save_figure",
    "save_picture",
    "score_maps",
    "score_table",
    "search_heatmap",
    "training_curve",
]

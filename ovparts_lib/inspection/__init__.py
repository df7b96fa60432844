"""Inspection: pictures of what a system did.

Functions that draw return a :class:`Panel`: a matplotlib Figure that pyplot does not know, the table behind it, title
and caption. Functions called ``render_…`` return uint8 pictures at full size.
"""

from ovparts_lib.inspection.attention import clip_attention, decoder_attention
from ovparts_lib.inspection.attention_statistics import (
    attention_by_class,
    attention_changes,
    attention_comparison,
    attention_statistics,
)
from ovparts_lib.inspection.charts import frequency_bars, iou_bars, iou_heatmap, part_confusion
from ovparts_lib.inspection.cost_maps import class_attention, cost_maps
from ovparts_lib.inspection.curves import run_bars, training_curve
from ovparts_lib.inspection.figures import Panel, save_figure
from ovparts_lib.inspection.heat_maps import score_maps
from ovparts_lib.inspection.overlays import caption_grid, comparison, label_grid, overlay, render_overlay
from ovparts_lib.inspection.palette import class_colours
from ovparts_lib.inspection.part_attention import composition, part_attention, part_attention_table
from ovparts_lib.inspection.proposals import opinions, proposal_grid, proposal_table, search_heatmap

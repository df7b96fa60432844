from .attention import clip_attention, decoder_attention
from .attention_measures import (
    attention_by_class,
    attention_changes,
    attention_comparison,
    attention_statistics,
)
from .attention_of_parts import composition, part_attention, part_attention_table
from .charts import frequency_bars, iou_bars, iou_heatmap, part_confusion
from .costs import class_attention, cost_maps
from .curves import run_bars, training_curve
from .figures import Panel, save_figure
from .heat_maps import score_maps
from .overlays import caption_grid, comparison, label_grid, overlay, render_overlay
from .palette import class_colours
from .proposals import opinions, proposal_grid, proposal_table, search_heatmap

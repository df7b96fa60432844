"""What the notebooks call: each function does what one cell says, from the parameters to the run folder."""

from ovparts_lib.workbook.ablations import ablation_table
from ovparts_lib.workbook.attention import (
    attention_beside,
    attention_change,
    attention_means,
    composition_figures,
    measure_attention,
    part_attention_figures,
)
from ovparts_lib.workbook.data import (
    build_data,
    class_frequency_table,
    frequency_chart,
    instance_counts,
    leakage_table,
    open_data,
    show_samples,
    split_table,
    verify_data,
)
from ovparts_lib.workbook.ensemble import search_ensemble
from ovparts_lib.workbook.miniature import (
    caption_grid,
    captioned_pictures,
    glance_at_miniature,
    miniclip,
    miniclip_accuracy,
    miniclip_figure,
    render,
)
from ovparts_lib.workbook.output import RunOutput, parameter_table
from ovparts_lib.workbook.own_image import (
    attention_of_views,
    browse,
    load_system,
    look_at_images,
    overlay_figures,
    own_words,
    score_map_figures,
)
from ovparts_lib.workbook.pictures import attention_figures, comparison_figures
from ovparts_lib.workbook.prompt_tuning import tune_prompts
from ovparts_lib.workbook.protocols import (
    describe_protocols,
    intervals_by_protocol,
    load_evaluation,
    segmentation_rates,
    semantics_guided,
    under_every_protocol,
    why_they_differ,
)
from ovparts_lib.workbook.results import beside_published, compare_runs, comparison_figure, paired_differences
from ovparts_lib.workbook.scoring import (
    class_figures,
    class_tables,
    confidence_intervals,
    evaluate_before,
    evaluate_stage,
    quick_scores,
    seen_in_training,
    summarise,
    training_figures,
)
from ovparts_lib.workbook.shifted_clip import fine_tune_shifted_clip
from ovparts_lib.workbook.start_here import environment_table, runs_table
from ovparts_lib.workbook.systems import build_model, train, trainable_table

__all__ = [
    "RunOutput",
    "ablation_table",
    "attention_beside",
    "attention_change",
    "attention_figures",
    "attention_means",
    "attention_of_views",
    "beside_published",
    "browse",
    "build_data",
    "build_model",
    "caption_grid",
    "captioned_pictures",
    "class_figures",
    "class_frequency_table",
    "class_tables",
    "compare_runs",
    "comparison_figure",
    "comparison_figures",
    "composition_figures",
    "confidence_intervals",
    "describe_protocols",
    "environment_table",
    "evaluate_before",
    "evaluate_stage",
    "fine_tune_shifted_clip",
    "frequency_chart",
    "glance_at_miniature",
    "instance_counts",
    "intervals_by_protocol",
    "leakage_table",
    "load_evaluation",
    "load_system",
    "look_at_images",
    "measure_attention",
    "miniclip",
    "miniclip_accuracy",
    "miniclip_figure",
    "open_data",
    "overlay_figures",
    "own_words",
    "paired_differences",
    "parameter_table",
    "part_attention_figures",
    "quick_scores",
    "render",
    "runs_table",
    "score_map_figures",
    "search_ensemble",
    "seen_in_training",
    "segmentation_rates",
    "semantics_guided",
    "show_samples",
    "split_table",
    "summarise",
    "train",
    "trainable_table",
    "training_figures",
    "tune_prompts",
    "under_every_protocol",
    "verify_data",
    "why_they_differ",
]

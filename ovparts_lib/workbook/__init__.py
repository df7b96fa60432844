"""What the notebooks call: each function does what one cell says, and gives panels that the run's output shows."""

from ovparts_lib.workbook.ablations import oracle_ablations, search_ensemble, shift_spread
from ovparts_lib.workbook.adaptation import adapt_clip, tune_prompts
from ovparts_lib.workbook.attention import (
    attention_beside,
    attention_change,
    attention_of_parts,
    composition_panels,
    measure_attention,
    part_attention_panels,
)
from ovparts_lib.workbook.data import (
    build_data,
    frequency_panel,
    instance_counts,
    leakage_table,
    open_data,
    sample_panel,
    split_table,
    verify_data,
)
from ovparts_lib.workbook.miniature import (
    captioned_pictures,
    captioned_regions,
    environment_table,
    glance_at_miniature,
    miniclip,
    miniclip_accuracy,
    render,
    runs_table,
    systems_table,
)
from ovparts_lib.workbook.output import RunOutput, parameter_table
from ovparts_lib.workbook.own_image import (
    browse,
    load_system,
    look_at_images,
    overlay_panels,
    save_overlays,
    score_panels,
    view_panels,
)
from ovparts_lib.workbook.pictures import comparison_panels, inspection_panels
from ovparts_lib.workbook.protocols import (
    describe_protocols,
    intervals_by_protocol,
    load_evaluation,
    segmentation_rates,
    semantics_guided,
    under_every_protocol,
    why_they_differ,
)
from ovparts_lib.workbook.results import beside_published, compare_runs, paired_differences, stored_evaluations
from ovparts_lib.workbook.scoring import (
    class_charts,
    class_tables,
    confidence_intervals,
    evaluate_stage,
    evaluation_options,
    quick_scores,
    seen_in_training,
    summaries,
)
from ovparts_lib.workbook.systems import build_model, device_of, train, trainable_table

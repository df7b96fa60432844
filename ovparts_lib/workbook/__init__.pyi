from .ablations import oracle_ablations, search_ensemble, shift_spread
from .adaptation import adapt_clip, tune_prompts
from .attention import (
    attention_beside,
    attention_change,
    attention_of_parts,
    composition_panels,
    measure_attention,
    part_attention_panels,
)
from .data import (
    build_data,
    frequency_panel,
    instance_counts,
    leakage_table,
    open_data,
    sample_panel,
    split_table,
    verify_data,
)
from .miniature import (
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
from .output import RunOutput, parameter_table
from .own_image import (
    browse,
    load_system,
    look_at_images,
    overlay_panels,
    save_overlays,
    score_panels,
    view_panels,
)
from .pictures import comparison_panels, inspection_panels
from .protocols import (
    describe_protocols,
    intervals_by_protocol,
    load_evaluation,
    segmentation_rates,
    semantics_guided,
    under_every_protocol,
    why_they_differ,
)
from .results import beside_published, compare_runs, paired_differences, stored_evaluations
from .scoring import (
    class_charts,
    class_tables,
    confidence_intervals,
    evaluate_stage,
    evaluation_options,
    quick_scores,
    seen_in_training,
    summaries,
)
from .systems import build_model, device_of, train, trainable_table

"""ZSSeg+: two-stage baseline of OV-PARTS, Wei et al., NeurIPS 2023, after Xu et al., ECCV 2022."""

from ovparts_lib.systems.system import System
from ovparts_lib.systems.zsseg_plus.options import ZssegPlusOptions

SYSTEM = System(
    name="zsseg_plus",
    title="ZSSeg+",
    paper="Wei et al., NeurIPS 2023 (datasets and benchmarks), after Xu et al., ECCV 2022",
    licence="OV-PARTS: none stated; zsseg.baseline: MIT",
    notebook="22_zsseg_plus",
    options=ZssegPlusOptions,
    model="ZssegPlus",
    marks=("clip_adapter.prompt_learner.prefix_prompt", "clip_adapter.non_object_embedding", "sem_seg_head."),
    stored=("conditional",),
)

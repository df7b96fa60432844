"""OVSeg: Liang et al., CVPR 2023."""

from ovparts_lib.systems.ovseg.options import OvsegOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="ovseg",
    title="OVSeg",
    paper="Liang et al., CVPR 2023",
    licence="CC BY-NC 4.0",
    notebook="25_ovseg",
    options=OvsegOptions,
    model="Ovseg",
    marks=("clip_adapter.non_object_embedding", "sem_seg_head.predictor.query_embed.", "sem_seg_head.pixel_decoder."),
    stored=("mask_prompts",),
)

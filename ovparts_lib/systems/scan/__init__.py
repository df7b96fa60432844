"""SCAN: Liu et al., CVPR 2024."""

from ovparts_lib.systems.scan.options import ScanOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="scan",
    title="SCAN",
    paper="Liu et al., CVPR 2024",
    licence="non-commercial",
    notebook="26_scan",
    options=ScanOptions,
    model="Scan",
    marks=("clip_adapter.original_clip.", "LFM.", "oriclip_mlp.", "fusion_decoder.", "lightweight_transformer."),
)

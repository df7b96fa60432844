"""SCAN: Liu et al., CVPR 2024."""

from ovparts_lib.systems.scan.options import ScanOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="scan",
    title="SCAN",
    paper="Liu et al., CVPR 2024",
    licence="Apache 2.0, parts of it CC BY-NC 4.0 (OVSeg)",
    notebook="26_scan",
    options=ScanOptions,
    model="Scan",
    marks=("clip_adapter.original_clip.", "LFM.conv1.", "fusion_decoder."),
)

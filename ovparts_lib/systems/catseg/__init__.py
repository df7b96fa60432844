"""CATSeg: Cho et al., CVPR 2024; trained on parts by OV-PARTS, Wei et al., NeurIPS 2023."""

from ovparts_lib.systems.catseg.options import CatsegOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="catseg",
    title="CATSeg",
    paper="Cho et al., CVPR 2024; trained on parts by OV-PARTS, Wei et al., NeurIPS 2023",
    licence="CAT-Seg: MIT; OV-PARTS: none stated",
    notebook="21_catseg",
    options=CatsegOptions,
    model="Catseg",
    marks=(".transformer.conv1.",),
)

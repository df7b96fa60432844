"""PartCATSeg: Choi et al., CVPR 2025."""

from ovparts_lib.systems.partcatseg.options import PartcatsegOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="partcatseg",
    title="PartCATSeg",
    paper="Choi et al., CVPR 2025",
    licence="see the repository kaist-cvml/part-catseg",
    notebook="24_partcatseg",
    options=PartcatsegOptions,
    model="PartCatseg",
    marks=(".transformer.conv1.", ".transformer.conv2."),
)

"""PartCLIPSeg: Choi et al., NeurIPS 2024."""

from ovparts_lib.systems.partclipseg.options import PartclipsegOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="partclipseg",
    title="PartCLIPSeg",
    paper="Choi et al., NeurIPS 2024",
    licence="see the repository kaist-cvml/part-clipseg",
    notebook="23_partclipseg",
    options=PartclipsegOptions,
    model="Partclipseg",
    marks=("film_mul.", "partclipseg_model."),
    stored=("object_text",),
)

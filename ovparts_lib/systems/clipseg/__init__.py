"""CLIPSeg: Lüddecke and Ecker, CVPR 2022; fine-tuned on parts by OV-PARTS, Wei et al., NeurIPS 2023."""

from ovparts_lib.systems.clipseg.options import ClipsegOptions
from ovparts_lib.systems.system import System

SYSTEM = System(
    name="clipseg",
    title="CLIPSeg",
    paper="Lüddecke and Ecker, CVPR 2022; fine-tuned on parts by OV-PARTS, Wei et al., NeurIPS 2023",
    licence="original: MIT; hub weights: Apache-2.0; OV-PARTS: none stated",
    notebook="20_clipseg",
    options=ClipsegOptions,
    model="Clipseg",
    marks=("film_mul.",),
)

"""A system outside the library: patch embeddings compared with the words of a frozen CLIP."""

from ovparts_lib.systems.toy.options import ToyOptions

from ovparts_lib.systems.system import System

SYSTEM = System(
    name="toy",
    title="Toy",
    paper="none",
    licence="that of this project",
    notebook="40_toy",
    options=ToyOptions,
    model="Toy",
    marks=("toy_patches.",),
)

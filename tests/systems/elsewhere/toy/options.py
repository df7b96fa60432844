"""The toy's options."""

from typing import Annotated, ClassVar, Literal

from ovparts_lib.options import Listed, Number, option
from ovparts_lib.systems.options import SystemOptions, published_protocols


class ToyOptions(SystemOptions):
    """The toy, with the recipe of nobody."""

    system = "toy"
    network_input = (96, 192)
    recipe_values: ClassVar = {"iterations": (100, 4), "protocols": (published_protocols(),) * 2}

    trainable: Annotated[list[Literal["patches"]], Listed] = option(["patches"], description="groups that train")
    temperature: Number = option(0.07, gt=0, description="what cosines are divided by")

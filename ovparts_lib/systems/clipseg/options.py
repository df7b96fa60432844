"""CLIPSeg's options."""

from typing import ClassVar

from ovparts_lib.systems.options import published_protocols
from ovparts_lib.systems.shared_options import QueryOptions


class ClipsegOptions(QueryOptions):
    """CLIPSeg, with the recipe of OV-PARTS (VA+L+F+D)."""

    system = "clipseg"
    recipe_values: ClassVar = {
        "protocols": (published_protocols("ov_parts"),) * 2,
        "evaluate_every": (5000, 0),
    }

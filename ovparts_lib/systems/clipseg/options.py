"""CLIPSeg's options, and those that PartCLIPSeg shares."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from ovparts_lib.options import Listed, Number, option
from ovparts_lib.systems.options import SystemOptions, published_protocols

Group = Literal["visual_adapter", "language", "film", "decoder", "background_query"]


class ClipsegFamilyOptions(SystemOptions):
    """What CLIPSeg and PartCLIPSeg have in common."""

    network_input = (800, 1333)
    recipe_values: ClassVar = {
        "initialise_from": ("checkpoints/clipseg-rd64-refined", None),
        "shortest_edge": (800, 96),
    }

    trainable: Annotated[list[Group], Listed] = option(
        ["visual_adapter", "language", "film", "decoder"],
        # The word embeddings stay: a short training would scramble them.
        ["visual_adapter", "film", "decoder", "background_query"],
        description="parameter groups that train",
    )
    channel_order: Literal["rgb", "bgr"] = option(
        "rgb", description="bgr: as the released training reads images, which then tests on rgb"
    )
    background_weight: Number = option(0.05, gt=0, description="weight of the background's terms in the loss")
    poly_power: Number = option(0.9, ge=0, description="learning rate × (1 - step / iterations) to this power")

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments that both systems take."""
        return {
            "label_resize": self.label_resize,
            "training_queries": self.queries_per_step,
            "background_weight": self.background_weight,
        }

    def schedule_options(self) -> dict[str, Any]:
        """The exponent of the poly schedule."""
        return {"power": self.poly_power}

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """Loading ends with squashing to a square, so that workers hand over small pictures of one size."""
        return {"final_size": size.image_size, "channel_order": self.channel_order}


class ClipsegOptions(ClipsegFamilyOptions):
    """CLIPSeg, with the recipe of OV-PARTS (VA+L+F+D)."""

    system = "clipseg"
    recipe_values: ClassVar = {
        "protocols": (published_protocols("ov_parts"),) * 2,
        "evaluate_every": (5000, 0),
    }

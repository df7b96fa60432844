"""PartCATSeg's options."""

from typing import Any, ClassVar, Literal

from ovparts_lib.options import Number, option
from ovparts_lib.systems.options import published_protocols
from ovparts_lib.systems.shared_options import DINOV2, CostOptions

Divergence = Literal["jensen_shannon", "symmetric_kl"]
SecondStage = Literal["pretrained", "random"]


class PartcatsegOptions(CostOptions):
    """PartCATSeg, with the recipe of part-catseg."""

    system = "partcatseg"
    recipe_values: ClassVar = {
        "initialise_from": ("checkpoints/model_final_base.pth", "outputs/miniature/catseg/weights.safetensors"),
        "guidance_weights": (DINOV2, None),
        "iterations": (20_000, 120),
        "learning_rate": (2e-4, 3e-3),
        "batch_size": (4, 2),
        "accumulate": (4, 1),  # one picture at a time, for published losses are means over a picture each
        "protocols": (published_protocols("partcatseg_oracle", "partcatseg_pred_all", partimagenet=True),) * 2,
    }

    model_size: Literal["released", "released_unguided", "miniature", "miniature_unguided"] = option(
        "released",
        "miniature",
        description="the published layer sizes, or small ones; unguided: without image guidance",
    )
    background_weight: Number = option(
        0.05,
        1.0,  # the published weight needs more steps: with it, the background wins on objects after 200 as after 800
        gt=0,
        description="weight of the background's terms in the losses",
    )
    compositional_weight: Number = option(1.0, ge=0, description="weight of the compositional loss; 0 switches it off")
    divergence: Divergence = option("jensen_shannon", description="how the compositional loss compares distributions")
    second_stage: SecondStage = option(
        "pretrained",
        description="what the second stage begins from: CAT-Seg's layers; random: as released, which copies the first "
        "stage before it reads CAT-Seg's file",
    )

    def loading_options(self) -> dict[str, Any]:
        """What the second stage begins from."""
        return {"second_stage": self.second_stage}

"""OVSeg's options: proposals, crops, the ensemble, and the released training of the proposal network."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ovparts_lib.options import Flag, Listed, Number, Text, Whole, option
from ovparts_lib.systems.options import scored_on
from ovparts_lib.systems.shared_options import SWIN, MaskClassifierOptions, WithoutCrop, begins_from

Group = Literal["backbone", "proposals", "no_object"]
Fusion = Literal["sum", "best_mask"]
MaskFill = Literal["mean", "zero"]
# What the published trainings begin from: (backbone on ImageNet, CLIP).
PRETRAINED = {
    "released": (SWIN, "checkpoints/ViT-L-14.pt"),
    "released_r101c": ("checkpoints/R-103.pkl", "checkpoints/ViT-B-16.pt"),
}
# CLIP's weight in the ensemble, by test set, as the released README says; 0.7 elsewhere.
ENSEMBLE_WEIGHTS = {"pascal_context_59": 0.6, "pascal_context_459": 0.6, "pascal_voc_20": 0.45}


def _by_backbone(swin: Any, r101c: Any) -> Any:
    """A published value that depends on the backbone."""
    return lambda given: r101c if given.get("model_size") == "released_r101c" else swin


def _ensemble_weight(given: Mapping[str, Any]) -> float:
    return ENSEMBLE_WEIGHTS.get(scored_on(given), 0.7)


class OvsegOptions(MaskClassifierOptions):
    """OVSeg, with the released recipes of both sizes."""

    system = "ovseg"
    recipe_values: ClassVar = {
        **begins_from(PRETRAINED),
        "iterations": (120_000, 300),
        "shortest_edge": (_by_backbone(list(range(320, 1281, 64)), [800]), [80, 96, 112]),
        "longest_edge": (_by_backbone(2560, 1333), 192),
        "crop": (_by_backbone(640, 512), 96),
        "learning_rate": (_by_backbone(6e-5, 2e-4), 1e-3),
        "weight_decay": (_by_backbone(0.01, 1e-4), 0.01),
        "backbone_rate": (_by_backbone(1.0, 0.1), 1.0),
        "ensemble_weight": (_ensemble_weight,) * 2,
        "mask_threshold": (_by_backbone(0.4, 0.5), 0.4),
    }

    model_size: Literal["released", "released_r101c", "miniature"] = option(
        "released", "miniature", description="Swin-B with ViT-L/14, ResNet-101c with ViT-B/16, or small layers"
    )
    trainable: Annotated[list[Group], Listed] = option(
        ["backbone", "proposals", "no_object"], description="parameter groups that train; CLIP is adapted by itself"
    )
    without_crop: WithoutCrop = option(
        "proposals",
        description="masks without a pixel above the threshold: proposals keep their own classes; as_released counts "
        "them more than that",
    )
    mask_prompts: Flag = option(
        True, False, description="learned tokens in place of a crop's blank patches; MiniClip has learned none"
    )
    mask_expand: Number = option(1.0, gt=0, description="crops are larger than their mask by this factor")
    mask_fill: MaskFill = option("mean", description="colour of a crop outside its mask")
    mask_matting: Flag = option(False, description="blend crops by the mask's probabilities")
    fusion: Fusion = option("sum", description="sum of all masks' classes, or (released demo) each class has one mask")
    adaptation: Annotated[list[Literal["fine_tuning", "mask_prompts"]], Listed, Field(min_length=1)] = option(
        ["fine_tuning", "mask_prompts"],
        ["fine_tuning"],
        description="how CLIP is adapted to masked crops: one way after the other",
    )
    adaptation_iterations: Whole = option(
        0,
        lambda given: 0 if given.get("checkpoint") else min(200, given.get("iterations") or 0),
        ge=0,
        description="steps of each way; 17,270 were released for ViT-L/14, 4,315 for ViT-B/16; 0: none",
    )
    adaptation_pairs: Text = option(
        "proposals",
        "labels",
        description="what CLIP is adapted on: proposals, those it finds most like each labelled class; labels, the "
        "labelled masks themselves; or a table of pairs mined elsewhere (.tsv with filepath and title)",
    )
    adaptation_batch_size: Whole = option(_by_backbone(128, 512), 16, ge=2, description="crops of an adaptation step")
    fine_tuning_rate: Number = option(5e-6, 5e-5, gt=0, description="AdamW learning rate of the image tower")
    mask_prompts_rate: Number = option(0.05, 0.01, gt=0, description="AdamW learning rate of the mask prompts")
    thresholds: Annotated[list[Number], Listed, Field(min_length=1)] = option(
        [0.35, 0.4, 0.45], [0.3, 0.4, 0.5], description="mask thresholds of the search"
    )
    weights: Annotated[list[Number], Listed, Field(min_length=1)] = option(
        [0.6, 0.65, 0.7, 0.75, 0.8], [0.1, 0.3, 0.5, 0.7, 0.9], description="ensemble weights of the search"
    )
    search_images: Whole = option(
        0, 20, ge=0, description="test images on which thresholds and weights are compared; 0 leaves the search out"
    )

    def adaptation_options(self) -> dict[str, Any]:
        """Arguments of :func:`~ovparts_lib.systems.ovseg.fine_tuning.adapt_clip`."""
        if not self.adaptation_iterations:
            return {}
        rates = {"fine_tuning": self.fine_tuning_rate, "mask_prompts": self.mask_prompts_rate}
        return {
            "rates": {way: rates[way] for way in self.adaptation},
            "pairs": self.adaptation_pairs,
            "iterations": self.adaptation_iterations,
            "batch_size": self.adaptation_batch_size,
        }

    def rules(self) -> list[str]:
        """Also a search within the ranges of what it searches."""
        broken = super().rules()
        if any(not 0 < value < 1 for value in (*self.thresholds, *self.weights)):
            broken.append("thresholds, weights: all must be above 0 and below 1")
        return broken

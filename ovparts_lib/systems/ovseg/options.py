"""OVSeg's options: proposals, crops, the ensemble, and the released training of the proposal network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ovparts_lib.options import Flag, Listed, Number, Text, Whole, option
from ovparts_lib.systems.options import Dataset, SystemOptions, protocols_by_kind

Group = Literal["backbone", "proposals", "no_object"]
# What the published trainings begin from: (backbone on ImageNet, CLIP).
PRETRAINED = {
    "released": ("checkpoints/swin_base_patch4_window12_384_22k.pth", "checkpoints/ViT-L-14.pt"),
    "released_r101c": ("checkpoints/resnet101c.pth", "checkpoints/ViT-B-16.pt"),
}
# CLIP's weight in the ensemble, by test set, as the released README says; 0.7 elsewhere.
ENSEMBLE_WEIGHTS = {"pascal_context_59": 0.6, "pascal_context_459": 0.6, "pascal_voc_20": 0.45}
SWIN_SIDES = list(range(320, 1281, 64))


def _by_backbone(swin: Any, r101c: Any) -> Any:
    """A published value that depends on the backbone."""
    return lambda given: r101c if given.get("model_size") == "released_r101c" else swin


def _begins_from(given: Mapping[str, Any]) -> str | None:
    return PRETRAINED.get(str(given.get("model_size")), (None, None))[0]


def _clip(given: Mapping[str, Any]) -> str | None:
    """CLIP's own file beside a backbone's; any other file that training begins from holds it."""
    backbone, clip = PRETRAINED.get(str(given.get("model_size")), (None, None))
    return clip if given.get("initialise_from") == backbone else None


def _ensemble_weight(given: Mapping[str, Any]) -> float:
    return ENSEMBLE_WEIGHTS.get(str(given.get("test_dataset") or given.get("dataset")), 0.7)


class OvsegOptions(SystemOptions):
    """OVSeg, with the released recipes of both sizes."""

    system = "ovseg"
    kinds = ("parts", "semantic")
    network_input = (640, 2560)
    recipe_values: ClassVar = {
        "initialise_from": (_begins_from, None),
        "clip_weights": (_clip, lambda given: SystemOptions.recipe_value("clip_weights", "miniature", given)),
        "longest_edge": (_by_backbone(2560, 1333), 192),
        "iterations": (120_000, 1000),
        "batch_size": (32, 4),
        "queries_per_step": (None, None),
        "learning_rate": (_by_backbone(6e-5, 2e-4), 5e-4),
        "weight_decay": (_by_backbone(0.01, 1e-4), 0.01),
        "evaluate_every": (5000, 0),
        "checkpoint_every": (5000, 1000),
        "protocols": (protocols_by_kind,) * 2,
    }

    dataset: Dataset = Field("coco_stuff_171", description="which reader reads data_root")
    test_dataset: Dataset | None = option(
        lambda given: "pascal_voc_20" if given.get("dataset") == "coco_stuff_171" else None,
        description="data set scored on, where it is another",
    )
    model_size: Literal["released", "released_r101c", "miniature"] = option(
        "released", "miniature", description="Swin-B with ViT-L/14, ResNet-101c with ViT-B/16, or small layers"
    )
    trainable: Annotated[list[Group], Listed] = option(
        ["backbone", "proposals", "no_object"], description="parameter groups that train; CLIP is adapted by itself"
    )
    shortest_edge: Annotated[list[Whole], Listed, Field(min_length=1)] = option(
        _by_backbone(SWIN_SIDES, [800]),
        [80, 96, 112],
        description="training images get one of these shorter sides, drawn evenly",
    )
    crop: Whole = option(
        _by_backbone(640, 512), 96, ge=1, description="side of the random square cut from training images, pixels"
    )
    photometric: Flag = option(True, False, description="colour jitter of training images")
    backbone_rate: Number = option(
        _by_backbone(1.0, 0.1), 1.0, gt=0, description="learning rate of the backbone, as a factor"
    )
    warmup: Whole = option(
        1500, lambda given: min(50, (given.get("iterations") or 0) // 10), ge=0, description="steps of linear warm-up"
    )
    no_object_weight: Number = option(0.1, gt=0, description="weight of unmatched queries in the class loss")
    mask_weight: Number = option(20.0, gt=0, description="weight of the focal loss")

    classifier: Literal["ensemble", "proposals", "clip"] = option(
        "ensemble", description="who classifies masks: both, the proposal network alone, or CLIP on crops alone"
    )
    ensemble_weight: Number = option(
        _ensemble_weight, gt=0, lt=1, description="CLIP's share in the ensemble's exponent, by test set"
    )
    mask_threshold: Number = option(
        _by_backbone(0.4, 0.5), 0.4, gt=0, lt=1, description="probability above which a pixel belongs to a mask's crop"
    )
    without_crop: Literal["as_released", "proposals"] = option(
        "proposals",
        description="masks without a pixel above the threshold: proposals keep their own classes; as_released counts "
        "them more than that",
    )
    mask_prompts: Flag = option(
        True, False, description="learned tokens in place of a crop's blank patches; MiniClip has learned none"
    )
    mask_expand: Number = option(1.0, gt=0, description="crops are larger than their mask by this factor")
    mask_fill: Literal["mean", "zero"] = option("mean", description="colour of a crop outside its mask")
    mask_matting: Flag = option(False, description="blend crops by the mask's probabilities")
    fusion: Literal["sum", "best_mask"] = option(
        "sum", description="pixels sum the classes of all masks, or (the released demo) each class has one mask"
    )
    crops_at_once: Whole | None = option(
        None, free=True, ge=1, description="crops in one pass of CLIP; none chooses by device"
    )
    adaptation: Annotated[list[Literal["fine_tuning", "mask_prompts"]], Listed, Field(min_length=1)] = option(
        ["fine_tuning", "mask_prompts"], description="how CLIP is adapted to masked crops: one way after the other"
    )
    adaptation_iterations: Whole = option(
        0, ge=0, description="steps of each way; 17,270 were released for ViT-L/14, 4,315 for ViT-B/16; 0: none"
    )
    adaptation_pairs: Text = option(
        "proposals",
        description="what CLIP is adapted on: proposals, those it finds most like each labelled class; labels, the "
        "labelled masks themselves; or a table of pairs mined elsewhere (.tsv with filepath and title)",
    )
    adaptation_batch_size: Whole = option(
        _by_backbone(128, 512), 16, ge=2, description="crops of a step of the adaptation"
    )
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

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.ovseg.model.Ovseg`."""
        names = (
            "mask_threshold", "classifier", "ensemble_weight", "without_crop", "mask_prompts", "mask_expand",
            "mask_fill", "mask_matting", "fusion", "crops_at_once", "no_object_weight", "mask_weight",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {"lr_multipliers": {"backbone": self.backbone_rate}}

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

    def schedule_options(self) -> dict[str, Any]:
        """Linear warm-up; poly's exponent is the loop's own, 0.9."""
        return {"warmup": self.warmup}

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """A random square crop, colours changed, padded where the image is too small."""
        return {
            "crop": self.crop,
            "photometric": self.photometric,
            "pad_size": self.crop,
            "ignore_label": ignore_label,
        }

    def rules(self) -> list[str]:
        """Also a warm-up that ends within the training."""
        broken = super().rules()
        if self.iterations and self.warmup >= self.iterations:
            broken.append("warmup, iterations: the warm-up must end before the training does")
        if any(not 0 < value < 1 for value in (*self.thresholds, *self.weights)):
            broken.append("thresholds, weights: all must be above 0 and below 1")
        return broken

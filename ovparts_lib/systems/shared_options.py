"""Options that several systems have, each declared once; a system changes their values in its ``recipe_values``."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ovparts_lib.options import Flag, Listed, Number, Text, Whole, by_dataset, option
from ovparts_lib.systems.options import Dataset, SystemOptions, protocols_by_kind, scored_on

QueryGroup = Literal["visual_adapter", "language", "film", "decoder", "background_query"]
CostGroup = Literal["guidance", "aggregator", "clip_attention", "clip_visual", "background_text"]
Padding = Literal["cut", "stretched"]
WithoutCrop = Literal["as_released", "proposals"]
Classifier = Literal["ensemble", "proposals", "clip"]
DINOV2 = "checkpoints/dinov2_vits14_pretrain.pth"
SWIN = "checkpoints/swin_base_patch4_window12_384_22k.pth"  # of ImageNet


class PolyOptions(SystemOptions):
    """Of systems whose poly schedule has an exponent that is their own."""

    poly_power: Number = option(0.9, ge=0, description="learning rate × (1 - step / iterations) to this power")

    def schedule_options(self) -> dict[str, Any]:
        """The exponent of the poly schedule."""
        return {"power": self.poly_power}


class CropOptions(SystemOptions):
    """Of systems that train on random square crops."""

    crop: Whole = option(640, 96, ge=1, description="side of the random square cut from training images, pixels")
    photometric: Flag = option(True, False, description="colour jitter of training images")

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """A random square crop, colours changed, padded where the image is too small."""
        return {**self.chosen("crop", "photometric"), "pad_size": self.crop, "ignore_label": ignore_label}


class QueryOptions(PolyOptions):
    """What CLIPSeg and PartCLIPSeg have in common."""

    network_input = (800, 1333)
    recipe_values: ClassVar = {
        "initialise_from": ("checkpoints/clipseg-rd64-refined", None),
        "shortest_edge": (800, 96),
        "iterations": (20_000, 300),
        "learning_rate": (1e-4, 3e-3),
    }

    trainable: Annotated[list[QueryGroup], Listed] = option(
        ["visual_adapter", "language", "film", "decoder"],
        # The word embeddings stay: a short training would scramble them.
        ["visual_adapter", "film", "decoder", "background_query"],
        description="parameter groups that train",
    )
    channel_order: Literal["rgb", "bgr"] = option(
        "rgb", description="bgr: as the released training reads images, which then tests on rgb"
    )
    background_weight: Number = option(0.05, gt=0, description="weight of the background's terms in the loss")

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """Loading ends with squashing to a square, so that workers hand over small pictures of one size."""
        return {"final_size": size.image_size, "channel_order": self.channel_order}


def _test_edge(given: Mapping[str, Any]) -> int | None:
    """PartImageNet is scored at its own size, as released."""
    return None if scored_on(given).startswith("partimagenet") else 640


class CostOptions(CropOptions):
    """What the systems that aggregate costs have in common."""

    schedule = "cosine"
    network_input = (640, 768)
    recipe_values: ClassVar = {
        "initialise_from": ("checkpoints/model_final_base.pth", None),
        "shortest_edge": (384, 96),
        "longest_edge": (768, 192),
        "crop": (384, 96),
        "queries_per_step": (None, 24),
        "learning_rate": (2e-4, 1e-3),
        "workers": (4, 0),
    }

    guidance_weights: Text | None = option(
        None, description="weights of the guidance backbone, where initialise_from does not hold them"
    )
    trainable: Annotated[list[CostGroup], Listed] = option(
        ["guidance", "aggregator"], description="parameter groups that train"
    )
    guidance_rate: Number = option(0.01, 1.0, gt=0, description="learning rate of the guidance backbone, as a factor")
    clip_rate: Number = option(0.01, gt=0, description="learning rate of CLIP's trainable parts, as a factor")
    test_shortest_edge: Whole | None = option(
        _test_edge,
        96,
        ge=1,
        description="test images get this shorter side first; none keeps their size, as released on PartImageNet",
    )
    templates: Literal["imagenet", "imagenet_select"] | None = option(
        None,
        description="prompt templates, imagenet (80) or imagenet_select (8, CAT-Seg's short list); none: the model "
        "size's own",
    )
    padding: Padding = option(
        "cut", description="stretched: as released, maps of the padded image drawn over the image, up to 31 pixels off"
    )
    checkpoint_aggregator: Flag = option(
        by_dataset(False, ade20k_part_234=True, partimagenet_ood=True),
        False,
        free=True,
        description="compute activations twice in training to save memory",
    )

    def sized(self, size: Any) -> Any:
        """The size with templates and test images as the parameters say."""
        return size.read_as(self.templates, self.test_shortest_edge)

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments that both systems take."""
        rates = {"guidance": self.guidance_rate, "clip_attention": self.clip_rate, "clip_visual": self.clip_rate}
        return super().model_options() | {"lr_multipliers": rates}

    def weight_paths(self) -> dict[str, str | None]:
        """Files that the system's loader takes beside the checkpoint."""
        return {"guidance_path": self.guidance_weights}


class ProposalOptions(CropOptions):
    """What systems that train a network of mask proposals have in common."""

    recipe_values: ClassVar = {"queries_per_step": (None, None), "evaluate_every": (5000, 0)}

    shortest_edge: Annotated[list[Whole], Listed, Field(min_length=1)] = option(
        list(range(320, 1281, 64)),
        [80, 96, 112],
        description="training images get one of these shorter sides, drawn evenly",
    )
    backbone_rate: Number = option(1.0, gt=0, description="learning rate of the backbone, as a factor")
    mask_weight: Number = option(20.0, ge=0, description="weight of the loss of masks' pixels, focal or cross-entropy")
    no_object_weight: Number = option(0.1, gt=0, description="weight of unmatched queries in the class loss")

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments that all of them take."""
        return super().model_options() | {"lr_multipliers": {"backbone": self.backbone_rate}}


def begins_from(pretrained: Mapping[str, tuple[str, str]]) -> dict[str, tuple[Any, Any]]:
    """Recipe values of a training from a backbone and a CLIP, by model size; other files to begin from hold both."""

    def backbone(given: Mapping[str, Any]) -> str | None:
        return pretrained.get(str(given.get("model_size")), (None, None))[0]

    def clip(given: Mapping[str, Any]) -> str | None:
        alone = given.get("initialise_from") == backbone(given)
        return pretrained.get(str(given.get("model_size")), (None, None))[1] if alone else None

    def miniclip(given: Mapping[str, Any]) -> str | None:
        return SystemOptions.recipe_value("clip_weights", "miniature", given)

    return {"initialise_from": (backbone, None), "clip_weights": (clip, miniclip)}


class MaskClassifierOptions(ProposalOptions):
    """What systems have in common that classify mask proposals and their crops, with the released recipe of both."""

    kinds = ("parts", "semantic")
    network_input = (640, 2560)
    recipe_values: ClassVar = {
        "longest_edge": (2560, 192),
        "iterations": (120_000, 150),
        "batch_size": (32, 4),
        "weight_decay": (0.01, 0.01),
        "checkpoint_every": (5000, 1000),
        "protocols": (protocols_by_kind,) * 2,
    }

    dataset: Dataset = Field("coco_stuff_171", description="which reader reads data_root")
    test_dataset: Dataset | None = option(
        lambda given: "pascal_voc_20" if given.get("dataset") == "coco_stuff_171" else None,
        lambda given: "pascal_context_59" if given.get("dataset") == "coco_stuff_171" else None,
        description="data set scored on, where it is another",
    )
    warmup: Whole = option(
        1500, lambda given: min(50, (given.get("iterations") or 0) // 10), ge=0, description="steps of linear warm-up"
    )
    classifier: Classifier = option(
        "ensemble", description="who classifies masks: both, the proposal network alone, or CLIP on crops alone"
    )
    ensemble_weight: Number = option(0.7, gt=0, lt=1, description="CLIP's share in the exponent, by test set")
    mask_threshold: Number = option(0.4, gt=0, lt=1, description="probability above which a pixel is in a mask's crop")
    crops_at_once: Whole | None = option(None, free=True, ge=1, description="crops in a pass of CLIP; none: by device")

    def schedule_options(self) -> dict[str, Any]:
        """Linear warm-up; poly's exponent is the loop's own, 0.9."""
        return {"warmup": self.warmup}

    def rules(self) -> list[str]:
        """Also a warm-up that ends within the training."""
        broken = super().rules()
        if self.iterations and self.warmup >= self.iterations:
            broken.append("warmup, iterations: the warm-up must end before the training does")
        return broken

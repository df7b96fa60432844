"""CATSeg's options, and those that PartCATSeg shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from ovparts_lib.options import Flag, Listed, Number, Text, Whole, by_dataset, option
from ovparts_lib.systems.options import SystemOptions

Group = Literal["guidance", "aggregator", "clip_attention", "clip_visual", "background_text"]
DINOV2 = "checkpoints/dinov2_vits14_pretrain.pth"
_SOUND = ["recommended", "recommended_strict"]
_PART_CATSEG = ["partcatseg_oracle", "partcatseg_pred_all"]


def _test_edge(given: Mapping[str, Any]) -> int | None:
    """PartImageNet is scored at its own size, as released."""
    scored = given.get("test_dataset") or given.get("dataset")
    return None if str(scored).startswith("partimagenet") else 640


class CostOptions(SystemOptions):
    """What the systems that aggregate costs have in common."""

    schedule = "cosine"
    network_input = (640, 768)
    recipe_values: ClassVar = {
        "initialise_from": ("checkpoints/model_final_base.pth", None),
        "shortest_edge": (384, 96),
        "longest_edge": (768, 192),
        "queries_per_step": (None, 8),
        "learning_rate": (2e-4, 1e-3),
        "workers": (4, 0),
    }

    guidance_weights: Text | None = option(
        None, description="weights of the guidance backbone, where initialise_from does not hold them"
    )
    trainable: Annotated[list[Group], Listed] = option(
        ["guidance", "aggregator"], description="parameter groups that train"
    )
    crop: Whole = option(384, 144, ge=1, description="side of the random square cut from training images, pixels")
    photometric: Flag = option(True, False, description="colour jitter of training images")
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
    padding: Literal["cut", "stretched"] = option(
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
        return {
            "training_queries": self.queries_per_step,
            "padding": self.padding,
            "checkpoint_aggregator": self.checkpoint_aggregator,
            "lr_multipliers": {
                "guidance": self.guidance_rate,
                "clip_attention": self.clip_rate,
                "clip_visual": self.clip_rate,
            },
        }

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """A random square crop, colours changed, padded where the image is too small."""
        return {
            "crop": self.crop,
            "photometric": self.photometric,
            "pad_size": self.crop,
            "ignore_label": ignore_label,
        }

    def weight_paths(self) -> dict[str, str | None]:
        """Files that the system's loader takes beside the checkpoint."""
        return {"guidance_path": self.guidance_weights}


def _of_part_catseg(value: Any, otherwise: Any) -> Callable[[Mapping[str, Any]], Any]:
    """part-catseg's value with DINOv2 and on PartImageNet, where OV-PARTS trained nothing, and OV-PARTS' elsewhere."""
    return lambda given: (
        value
        if given.get("model_size") == "released_dinov2" or str(given.get("dataset")).startswith("partimagenet")
        else otherwise
    )


class CatsegOptions(CostOptions):
    """CATSeg, with the recipe of OV-PARTS (B+D), and that of part-catseg on PartImageNet and with DINOv2."""

    system = "catseg"
    recipe_values: ClassVar = {
        "guidance_weights": (
            lambda given: (
                "checkpoints/dinov2_vits14_pretrain.pth" if given["model_size"] == "released_dinov2" else None
            ),
            None,
        ),
        "iterations": (_of_part_catseg(20_000, 80_000), 1000),
        "batch_size": (_of_part_catseg(4, 8), 2),
        "evaluate_every": (_of_part_catseg(1000, 5000), 0),
        "checkpoint_aggregator": (
            by_dataset(False, ade20k_part_234=True, partimagenet_seg=True, partimagenet_ood=True),
            False,
        ),
        "protocols": (
            _of_part_catseg(_SOUND + _PART_CATSEG, [*_SOUND, "ov_parts", *_PART_CATSEG]),
            [*_SOUND, "ov_parts"],
        ),
    }

    model_size: Literal["released", "released_dinov2", "released_unguided", "miniature", "miniature_unguided"] = option(
        "released",
        "miniature",
        description="OV-PARTS' model (ResNet-101), part-catseg's on Pascal (DINOv2), or small layers; unguided: "
        "without image guidance",
    )
    sliding_window: Flag = option(False, description="score overlapping crops and the whole image")
    pooling: Whole | None = option(
        None,
        ge=1,
        description="positions averaged along each axis before class attention, in scoring; none: 1 with "
        "sliding_window, as CAT-Seg was evaluated, and otherwise as in training",
    )

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.catseg.model.Catseg`."""
        return super().model_options() | {"sliding_window": self.sliding_window, "pooling": self.pooling}

"""CATSeg's options."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from ovparts_lib.options import Flag, Whole, by_dataset, option
from ovparts_lib.systems.shared_options import DINOV2, CostOptions

_SOUND = ["recommended", "recommended_strict"]
_PART_CATSEG = ["partcatseg_oracle", "partcatseg_pred_all"]


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
            lambda given: DINOV2 if given["model_size"] == "released_dinov2" else None,
            None,
        ),
        "iterations": (_of_part_catseg(20_000, 80_000), 150),
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

"""SCAN's options: calibration, contextual shift, the ensemble, and the released training of proposals and SIM."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ovparts_lib.options import Flag, Listed, Number, Text, Whole, option
from ovparts_lib.systems.options import scored_on
from ovparts_lib.systems.shared_options import SWIN, MaskClassifierOptions, begins_from

Group = Literal["backbone", "proposals", "integration", "no_object"]
# What the published trainings begin from: (backbone on ImageNet, CLIP, open_clip's datacomp_xl_s13b_b90k).
PRETRAINED = {
    "released": (SWIN, "checkpoints/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"),
    "released_vitb": (SWIN, "checkpoints/CLIP-ViT-B-16-DataComp.XL-s13B-b90K"),
}


@dataclass(frozen=True)
class Preset:
    """Settings of one test set, as in the comments of the released configurations.

    Attributes:
        mask_threshold: probability above which a pixel belongs to a mask.
        ensemble_weight: share of the CLIP branch in the ensemble's exponent.
        shift_ratio: share of background tokens that CS overwrites.
        second_normalisation: normalise the ensemble once more, as for the two longest lists.
    """

    mask_threshold: float = 0.4
    ensemble_weight: float = 0.7
    shift_ratio: float = 0.15
    second_normalisation: bool = False


PRESETS = {
    size: {test_set: Preset(**settings) for test_set, settings in presets.items()}
    for size, presets in json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8")).items()
}


def _preset(setting: str) -> Callable[[Mapping[str, Any]], Any]:
    """A setting's published value for the test set, or that of the configuration file for others."""

    def value(given: Mapping[str, Any]) -> Any:
        return getattr(PRESETS.get(str(given.get("model_size")), {}).get(scored_on(given), Preset()), setting)

    return value


class ScanOptions(MaskClassifierOptions):
    """SCAN, with the released recipe of both sizes."""

    system = "scan"
    recipe_values: ClassVar = {
        **begins_from(PRETRAINED),
        "learning_rate": (6e-5, 1e-3),
        "mask_weight": (5.0, 5.0),
        "ensemble_weight": (_preset("ensemble_weight"),) * 2,
        "mask_threshold": (_preset("mask_threshold"),) * 2,
    }

    model_size: Literal["released", "released_vitb", "miniature"] = option(
        "released", "miniature", description="Swin-B with ViT-L/14 or with ViT-B/16, or small layers"
    )
    fused_clip: Text | None = Field(
        None, description="a contextually shifted CLIP (CS_CLIP.pt) to put into the checkpoint before it is scored"
    )
    trainable: Annotated[list[Group], Listed] = option(
        ["backbone", "proposals", "integration", "no_object"],
        description="parameter groups that train; both CLIPs are frozen",
    )
    class_weight: Number = option(2.0, gt=0, description="weight of the class loss")
    dice_weight: Number = option(5.0, gt=0, description="weight of the dice loss")
    points: Whole = option(12544, 1024, ge=1, description="points at which masks are compared in training")
    last_auxiliary_loss: Flag = option(
        False, description="count the losses of the last but one decoder layer, which the release throws away"
    )

    queries: Whole = option(100, 24, ge=1, description="mask proposals of an image")
    integration: Flag = option(True, description="SIM: proposals are calibrated by CLIP's view of the whole image")
    second_normalisation: Flag = option(
        _preset("second_normalisation"),
        description="make the ensemble a distribution again; as released for the two longest class lists",
    )
    shift_ratio: Number = option(
        _preset("shift_ratio"),
        ge=0,
        le=1,
        description="CS: share of a crop's background tokens that the image's context overwrites, by test set",
    )
    shift_seed: Whole = option(0, ge=0, description="seed of their choice, the same for every image")
    spread_images: Whole = option(200, 8, ge=0, description="test images scored with five such seeds; 0: none")
    shift_iterations: Whole = option(
        0,
        lambda given: 0 if given.get("checkpoint") else 60,
        ge=0,
        description="steps that fine-tune CLIP on crops with context (CS-CLIP); 17,270 were released; 0: none",
    )
    shift_batch_size: Whole = option(256, 16, ge=2, description="crops of such a step")
    shift_learning_rate: Number = option(5e-6, 5e-5, gt=0, description="AdamW learning rate of such a step")

    def sized(self, size: Any) -> Any:
        """The size with the number of proposals of the parameters."""
        return replace(size, queries=self.queries)

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.scan.model.Scan`."""
        losses = self.chosen("class_weight", "mask_weight", "dice_weight", "no_object_weight", "points")
        return super().model_options() | {"losses": losses}

    def weight_paths(self) -> dict[str, str | None]:
        """The CLIP that is fused into a checkpoint."""
        return {"fused_path": self.fused_clip}

    def adaptation_options(self) -> dict[str, Any]:
        """Steps, crops of a step and learning rate of the fine-tuning of CLIP; none where it is left out."""
        if not self.shift_iterations:
            return {}
        return {
            "iterations": self.shift_iterations,
            "batch_size": self.shift_batch_size,
            "learning_rate": self.shift_learning_rate,
        }

    def rules(self) -> list[str]:
        """Also a CLIP that is fused into a checkpoint only."""
        broken = super().rules()
        if self.fused_clip and not self.checkpoint:
            broken.append("fused_clip, checkpoint: a shifted CLIP is fused into a checkpoint that is scored; give both")
        return broken

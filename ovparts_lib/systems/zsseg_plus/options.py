"""ZSSeg+'s options: stage 1, stage 2, and the prompt tuning that comes before both."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ovparts_lib.options import Flag, Listed, Name, Number, Text, Whole, by_dataset, option
from ovparts_lib.systems.options import MINICLIP, published_protocols
from ovparts_lib.systems.shared_options import PolyOptions, ProposalOptions
from ovparts_lib.vocabularies import load_vocabulary

Group = Literal["backbone", "proposals", "no_object"]
Ensemble = Literal["both", "stage1", "clip"]
Stage2Object = Literal["own", "first_as_released"]
KeyMask = Literal["released", "hidden"]
FeatureMean = Literal["image", "object"]
Competing = Literal["all", "object"]
_RELEASED_PROMPTS = by_dataset(
    None,
    pascal_part_116="checkpoints/voc_cpt_coop_model.pth",
    ade20k_part_234="checkpoints/ade_cpt_coop_model.pth",
)


def _released_prompts(given: Mapping[str, Any]) -> str | None:
    """The released prompts are CPTCoOp's, tuned on the seen classes."""
    return None if given.get("train_split") == "train_few_shot" else _RELEASED_PROMPTS(given)


def _new(value: Any) -> Any:
    """A recipe's value for a model that is new; None where a checkpoint of the system brings it."""
    return lambda given: (
        None
        if given.get("checkpoint") or given.get("initialise_from")
        else (value(given) if callable(value) else value)
    )


class ZssegPlusOptions(ProposalOptions, PolyOptions):
    """ZSSeg+, with the recipe of OV-PARTS (ResNet-50, CPTCoOp)."""

    system = "zsseg_plus"
    network_input = (512, 768)
    recipe_values: ClassVar = {
        "clip_weights": (_new("checkpoints/ViT-B-16.pt"), _new(MINICLIP)),
        "shortest_edge": (list(range(320, 961, 64)), [72, 96, 120, 144]),
        "longest_edge": (768, 192),
        "crop": (512, 96),
        "backbone_rate": (0.1, 1.0),
        "iterations": (20_000, 200),
        "batch_size": (8, 4),
        "gradient_clip": (0.01, 1.0),
        "workers": (4, 0),
        "protocols": (published_protocols("ov_parts"),) * 2,
    }

    train_split: Name = Field(
        "train_obj_condition", description="records trained on; those of whole images become one for each object"
    )
    trainable: Annotated[list[Group], Listed] = option(
        ["backbone", "proposals", "no_object"], description="parameter groups of stage 1 that train"
    )
    backbone_weights: Text | None = option(
        _new("checkpoints/resnet50-0676ba61.pth"),
        None,
        description="ResNet-50 of ImageNet that a training begins from; none: it is new",
    )
    prompts: Text | None = option(_new(_released_prompts), None, description="tuned prompts; none: tuned first")
    object_remap: Literal["objects", "parts_as_released"] = option(
        "objects",
        description="parts_as_released: on Pascal-Part-116 training looked objects up in the parts' table, so that "
        "the masks of 5 of the seen objects were withheld",
    )
    dropout: Number = option(0.1, ge=0, lt=1, description="of the transformer decoder")
    prompt_dropout: Number = option(
        0.0, 0.25, ge=0, le=1, description="share of training records whose object mask is withheld: helps pred-all"
    )

    conditional: Flag = option(False, description="prompts of CPTCoCoOp: the object's image feature is added to them")
    ensemble: Ensemble = option("both", description="whose scores count in the end")
    ensemble_weight: Number = option(0.5, ge=0, le=1, description="exponent of stage 1 on seen, CLIP on unseen classes")
    stage2_object: Stage2Object = option(
        "own", description="first_as_released: all objects of a call are named inside the first one's mask"
    )
    key_mask: KeyMask = option(
        "released", description="hidden: attention does not see outside the object; released: it prefers it, by 1"
    )
    feature_mean: FeatureMean = option(
        "image", description="what the object feature is a mean over; image, as released, makes it grow with the object"
    )

    prompt_iterations: Whole = option(3200, 200, ge=1, description="steps of prompt tuning")
    prompt_batch_size: Whole = option(32, 64, ge=1, description="regions in a step of prompt tuning")
    prompt_learning_rate: Number = option(0.02, gt=0, description="of SGD, in prompt tuning")
    prompt_warmup: Whole = option(100, 10, ge=0, description="first steps of prompt tuning, at a small constant rate")
    prompt_regions: Whole = option(128, ge=1, description="annotated regions of each class that prompts are tuned on")
    prompt_competing: Competing = option(
        "all", "object", description="classes of its cross-entropy: all seen ones, or those of the region's object"
    )
    ablation_images: Whole = option(200, 50, ge=0, description="test images of the two oracle ablations")

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.zsseg_plus.model.ZssegPlus`."""
        class_rule = "substring" if self.oracle_rule == "substring" else "exact"
        return super().model_options() | {"class_rule": class_rule, "withheld_objects": self.withheld_objects()}

    def withheld_objects(self) -> tuple[str, ...]:
        """Objects whose masks the released training lost: their ids are no seen part's in the parts' table."""
        if self.object_remap == "objects" or self.dataset != "pascal_part_116" or self.train_split == "train_few_shot":
            return ()
        vocabulary = load_vocabulary(self.dataset)
        table = vocabulary.table(vocabulary.seen)
        return tuple(name for number, name in enumerate(vocabulary.objects) if table[number] == vocabulary.ignore_label)

    def weight_paths(self) -> dict[str, str | None]:
        """Files that a training begins from beside CLIP."""
        return {"backbone": self.backbone_weights, "prompts": self.prompts}

    def prompt_settings(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.zsseg_plus.prompt_tuning.PromptTuningSettings`."""
        return {
            "iterations": self.prompt_iterations,
            "batch_size": self.prompt_batch_size,
            "learning_rate": self.prompt_learning_rate,
            "warmup": self.prompt_warmup,
            "regions_per_class": self.prompt_regions,
            "competing": self.prompt_competing,
            "seed": self.seed,
        }

    def rules(self) -> list[str]:
        """A checkpoint of the system brings its backbone and its prompts."""
        broken = super().rules()
        source = "checkpoint" if self.checkpoint else "initialise_from"
        for name in ("backbone_weights", "prompts"):
            if getattr(self, source) and getattr(self, name):
                broken.append(f"{name}, {source}: {source} holds them; leave {name} out")
        if self.prompt_warmup >= self.prompt_iterations:
            broken.append("prompt_warmup, prompt_iterations: prompt tuning would end before its rate rises")
        return broken

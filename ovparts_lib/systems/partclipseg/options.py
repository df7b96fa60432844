"""PartCLIPSeg's options."""

from typing import ClassVar, Literal

from ovparts_lib.options import Flag, Number, Text, Whole, option
from ovparts_lib.systems.options import published_protocols
from ovparts_lib.systems.shared_options import QueryOptions

ObjectText = Literal["object", "released"]
AttentionRule = Literal["corrected", "released"]
LossMean = Literal["image", "batch"]
# Layers of the decoder, without building a model; a test compares this with the sizes.
DECODER_LAYERS = {"released": 3, "miniature": 1}
_PROTOCOLS = ("partclipseg_oracle", "partclipseg_pred_all")


class PartclipsegOptions(QueryOptions):
    """PartCLIPSeg, with the recipe of part-clipseg."""

    system = "partclipseg"
    recipe_values: ClassVar = {
        "protocols": (published_protocols(*_PROTOCOLS, partimagenet=True), published_protocols(*_PROTOCOLS)),
    }

    object_text: ObjectText | None = option(
        None,
        description="text of a pair's object slot; none: as the weights were trained, object for new ones; released: "
        "mostly a part's text where the object's belongs",
    )
    object_weight: Number = option(1.0, ge=0, description="weight of the objects' own logits in the loss")
    part_weight: Number = option(1.0, ge=0, description="weight of the generalised parts' own logits in the loss")
    separation_weight: Number = option(0.1, ge=0, description="weight of the separation loss")
    enhancement_weight: Number = option(0.01, ge=0, description="weight of the attention-enhancement loss")
    attention_threshold: Number = option(0.3, ge=0, le=1, description="attention above which a part claims a patch")
    attention_layer: Whole = option(
        -1, description="the decoder's layer whose attention is controlled and measured; -1: the last, as published"
    )
    attention_rule: AttentionRule = option(
        "corrected",
        description="released: separation has no gradient, enhancement next to none, as in the released code",
    )
    loss_mean: LossMean = option(
        "image",
        description="image: mean of each image's loss, as published on eight devices; batch: over all pixels",
    )
    checkpoint_decoder: Flag = option(False, free=True, description="compute activations twice to save memory")
    query_chunk: Whole | None = option(
        None, free=True, ge=1, description="(image, query) pairs decoded at once, to bound memory; none: by device"
    )
    statistics_images: Whole = option(
        40, ge=0, description="test images in which overlap and strength of parts in attention are measured"
    )
    attention_beside: Text | None = option(
        None, description="folder of another finished run, whose attention is shown beside this one's"
    )

    def rules(self) -> list[str]:
        """Also, the decoder has the layer whose attention is controlled."""
        broken, layers = super().rules(), DECODER_LAYERS[self.model_size]
        if not -layers <= self.attention_layer < layers:
            broken.append(
                f"attention_layer, model_size: the {self.model_size} decoder has the layers 0 to {layers - 1}, which "
                f"are also -{layers} to -1; there is no layer {self.attention_layer}"
            )
        return broken

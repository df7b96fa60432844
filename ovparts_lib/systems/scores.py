"""What a system says about one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

BACKGROUND = "none of them"  # the name of the class of pixels without a part, where a picture or table needs one


@dataclass
class AttentionMaps:
    """Self-attention of one image, softmax weights; rows are the asking tokens, token 0 is the class token.

    Attributes:
        grid: patches (gh, gw); the other t - 1 = gh * gw tokens are theirs in row-major order.
        decoder: ``{layer: (n, heads, t, t)}`` for the n ``queries``; layers count from 0, as in the checkpoint.
        clip: ``{block: (heads, t, t)}`` of the image tower; blocks count from 1.
        queries: the texts of the n queries.
        components: ``{(kind, text): {layer: (heads, t, t)}}`` of the queries a part's map is the mean of, for systems
            that decode generic parts and objects instead of object-specific parts; kind is ``part`` or ``object``, for
            a word may be both ("shelf").
    """

    grid: tuple[int, int]
    decoder: dict[int, Tensor]
    clip: dict[int, Tensor]
    queries: tuple[str, ...]
    components: dict[tuple[str, str], dict[int, Tensor]] = field(default_factory=dict)


@dataclass
class ObjectScores:
    """Object logits of one image, for systems that choose a pixel's object first and its part among that object's.

    Attributes:
        logits: float32 (m, h, w), one channel per entry of ``object_ids``.
        object_ids: indices of the channels in the vocabulary's objects.
        background: float32 (h, w), logit of "none of the objects"; None if the system has none.
    """

    logits: Tensor
    object_ids: tuple[int, ...]
    background: Tensor | None


@dataclass
class GenericPartScores:
    """Logits of generic parts ("head", whoever's) of one image, for systems that score them by themselves.

    Attributes:
        logits: float32 (m, h, w), one channel per entry of ``generic_ids``.
        generic_ids: indices of the channels in the vocabulary's generic parts.
    """

    logits: Tensor
    generic_ids: tuple[int, ...]


@dataclass
class CostMaps:
    """Cosine similarity of image and class embeddings, as a cost-aggregation system sees it.

    Attributes:
        before: float32 (n, h, w), the mean over prompt templates of the cost volume, for the n ``queries``.
        after: float32 (n, h2, w2), logits after aggregation.
        class_attention: ``{layer: (n, k)}``, how much each query (row) attends to each of the k classes that are
            aggregated together (column), mean over pixels and heads; rows sum to 1.
        queries: the texts of the n queries.
        classes: the texts of the k classes, all of the stage's, the background last where it is one of them.
    """

    before: Tensor
    after: Tensor
    class_attention: dict[int, Tensor]
    queries: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass
class PartScores:
    """Scores of one image at the model's own resolution.

    Attributes:
        logits: float32 (n, h, w), one channel per entry of ``part_ids``.
        part_ids: indices of the channels in the vocabulary's parts.
        background: float32 (h, w), logit of "none of the parts"; None where it was not asked for or does not exist.
        image_size: (height, width) of the image as it was given.
        attention: None unless asked for.
        covered_size: (height, width) in pixels of the image that the maps span, at least ``image_size``, where a system
            pads images to the right and below; None where the maps span the image.
        objects: where every pixel's object is chosen before its part; None for systems that choose among all parts.
        generic_parts: None unless asked for, and for systems that do not score them.
        cost: None unless asked for.
        generic_cost: of generic parts and objects, the first stage of systems that aggregate these before the parts in
            ``cost``; None unless asked for.
        resized_as: what is resized to the image: the logits (the CLIPSeg family), or their sigmoid, for systems whose
            published maps are probabilities before they are resized (the CAT-Seg family).
    """

    logits: Tensor
    part_ids: tuple[int, ...]
    background: Tensor | None
    image_size: tuple[int, int]
    attention: AttentionMaps | None = None
    covered_size: tuple[float, float] | None = None
    objects: ObjectScores | None = None
    generic_parts: GenericPartScores | None = None
    cost: CostMaps | None = None
    generic_cost: CostMaps | None = None
    resized_as: Literal["logits", "probabilities"] = "logits"

"""What a system says about one image: scores, which are evaluated, and maps, which are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps
from ovparts_lib.vocabularies.vocabulary import Vocabulary

BACKGROUND = "none of them"  # the name of the class of pixels without a part, where a picture or table needs one


@dataclass
class Scores:
    """Scores of one image at the model's own resolution, of parts or of whole objects.

    Attributes:
        logits: float32 (n, h, w), one channel per entry of ``class_ids``; or, with ``class_weights``, k maps that all
            classes are made of.
        class_ids: indices of the channels in the vocabulary's classes.
        background: float32 (h, w), logit of "none of the classes"; None where it was not asked for or does not exist.
        image_size: (height, width) of the image as it was given.
        covered_size: (height, width) in pixels of the image that the maps span, at least ``image_size``, where a system
            pads images to the right and below; None where the maps span the image.
        objects: scores of whole objects (``class_ids`` are indices in the vocabulary's objects), where every pixel's
            object is chosen before its part; None for systems that choose among all parts.
        resized_as: what is resized to the image: the logits (the CLIPSeg family), or their sigmoid, for systems whose
            published maps are probabilities before they are resized (the CAT-Seg family).
        class_weights: float32 (n, k), for mask classification, where class c scores ``sum_k class_weights[c, k] *
            logits[k]``: its masks are k maps, far fewer than its classes, and the product is made at the pixels that
            are asked for only; ``resized_as`` must be ``logits``. None where each class has a map of its own.
        probabilities: whether the class maps are probabilities rather than logits.
    """

    logits: Tensor
    class_ids: tuple[int, ...]
    background: Tensor | None
    image_size: tuple[int, int]
    covered_size: tuple[float, float] | None = None
    objects: Scores | None = None
    resized_as: Literal["logits", "probabilities"] = "logits"
    class_weights: Tensor | None = None
    probabilities: bool = False

    def class_maps(self, class_ids: Sequence[int] | None = None) -> Tensor:
        """Maps (m, h, w) of some classes, all of ``class_ids`` for None: the product, where it is kept factored."""
        places = None if class_ids is None else [self.class_ids.index(number) for number in class_ids]
        rows = self.logits if self.class_weights is None else self.class_weights
        rows = rows if places is None else rows[places]
        return rows if self.class_weights is None else torch.einsum("nk,khw->nhw", rows, self.logits)


@dataclass
class AttentionMaps:
    """Self-attention of one image, softmax weights; rows are queries, columns keys, token 0 is the class token.

    Attributes:
        grid: patches (gh, gw); the other t - 1 = gh * gw tokens are theirs in row-major order.
        decoder: ``{layer: (n, heads, t, t)}`` for the n ``queries``; layers count from 0, as in the checkpoint.
        clip: ``{block: (heads, t, t)}`` of the image tower; blocks count from 1.
        queries: the texts of the n queries.
        components: ``{(kind, text): {layer: (heads, t, t)}}`` of the queries a part's map is the mean of, for systems
            that decode parts regardless of object and objects instead of object-specific parts; kind is ``part`` or
            ``object``, for a word may be both ("shelf").
    """

    grid: tuple[int, int]
    decoder: dict[int, Tensor]
    clip: dict[int, Tensor]
    queries: tuple[str, ...]
    components: dict[tuple[str, str], dict[int, Tensor]] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Request:
    """What a system is asked about images.

    Attributes:
        vocabulary: the words to look for.
        class_ids: indices of the classes to score, in that order.
        background: also give the background's logits, if the system has them, and the objects' scores of a system that
            also predicts objects.
        inspected: also give what can be looked at.
    """

    vocabulary: Vocabulary
    class_ids: tuple[int, ...]
    background: bool
    inspected: bool


# What can be inspected, by name: ``attention``; ``cost``, of the classes; ``generic_cost``, the first stage of a system
# that aggregates parts regardless of object and objects first; ``generic_parts``, scores of the former by themselves;
# ``proposals`` of mask classification, the ``regions`` that they make of an object, and ``calibration``, what semantic
# integration changed in them.
Maps = dict[str, AttentionMaps | CostMaps | ProposalMaps | CalibrationMaps | Scores]


def checked_class_ids(class_ids: Sequence[int] | None, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The classes to score, all of them for None.

    Raises:
        ValueError: none, one twice, or one that does not exist.
    """
    count = len(vocabulary.classes)
    chosen = tuple(range(count)) if class_ids is None else tuple(int(number) for number in class_ids)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(count)):
        raise ValueError(
            f"class_ids must be different numbers from 0 to {count - 1}, the classes of {vocabulary.name!r}, and at "
            f"least one; got {list(chosen)}"
        )
    return chosen

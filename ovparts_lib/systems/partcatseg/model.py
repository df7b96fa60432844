"""PartCATSeg: object-aware, part-level cost aggregation.

Dense CLIP features are compared with the texts of generic parts and of objects; the aggregated costs of an
object-specific part's generic part and object are joined, compared with its own text, and aggregated again. DINOv2
guides both stages. A compositional loss asks that the parts of an object together get the share the object gets.
Source: Choi et al., "Fine-Grained Image-Text Correspondence with Cost Aggregation for Open-Vocabulary Part
Segmentation", CVPR 2025, and the code released with it.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from ovparts_lib.checked import checked_arguments, hyper_parameters
from ovparts_lib.models.backbones.guidance import GuidanceSize
from ovparts_lib.models.cost_aggregation import AggregatorSize, mean_cost
from ovparts_lib.models.cost_aggregation.targets import covered_labels
from ovparts_lib.systems.base import batch_labels, chosen_queries
from ovparts_lib.systems.cost_segmenter import (
    MINIATURE_COST,
    RELEASED_GROUPS,
    SHARED_GROUPS,
    CostSegmenter,
    CostSize,
    without_guidance,
)
from ovparts_lib.systems.part_queries import part_queries
from ovparts_lib.systems.partcatseg.aggregator import PartAggregator, PartTexts
from ovparts_lib.systems.partcatseg.losses import (
    NO_LABEL,
    Divergence,
    PartTargets,
    compositional_loss,
    segmentation_losses,
)
from ovparts_lib.systems.scores import BACKGROUND, CostMaps, Maps, Request, Scores
from ovparts_lib.vocabularies import PartVocabulary


@hyper_parameters
class PartCatsegSize(CostSize):
    """Hyper-parameters of PartCATSeg: those of CATSeg; ``aggregator`` is that of both stages."""

    guidance: GuidanceSize = field(default_factory=lambda: GuidanceSize("dinov2_vits14", 448))
    # the released YAML says linear attention, which the released code overrides
    aggregator: AggregatorSize = field(default_factory=lambda: AggregatorSize(class_attention="query"))


RELEASED = PartCatsegSize()
MINIATURE_PARTCATSEG = PartCatsegSize(
    **vars(MINIATURE_COST) | {"aggregator": replace(MINIATURE_COST.aggregator, class_attention="query")}
)
SIZES = {
    "released": RELEASED,
    "released_unguided": without_guidance(RELEASED),
    "miniature": MINIATURE_PARTCATSEG,
    "miniature_unguided": without_guidance(MINIATURE_PARTCATSEG),
}


class PartCatseg(CostSegmenter):
    """PartCATSeg for object-specific parts. See the module's docstring.

    The background's text is drawn once and does not train, as released. With ``training_queries``, of generic parts and
    objects those are scored that belong to the chosen object-specific parts, and objects that occur.

    Args:
        size: hyper-parameters, ``RELEASED`` or ``MINIATURE_PARTCATSEG``.
        compositional_weight: factor of the compositional loss; 0 leaves it out.
        divergence: of the compositional loss: ``jensen_shannon`` as released, ``symmetric_kl`` as the paper writes it.
        **shared: those of :class:`CostSegmenter`.

    Raises:
        ValueError: an option out of its range.
    """

    groups: ClassVar = {"aggregator": ("aggregator.",), **SHARED_GROUPS}
    needs_parts = True

    @checked_arguments
    def __init__(
        self,
        size: PartCatsegSize = RELEASED,
        *,
        compositional_weight: NonNegativeFloat = 1.0,
        divergence: Divergence = "jensen_shannon",
        **shared: Any,
    ) -> None:
        super().__init__(size, **shared)
        self.compositional_weight, self.divergence = compositional_weight, divergence
        self.aggregator = PartAggregator(size.aggregator, () if self.guidance is None else self.guidance.channels)
        self.set_trainable(RELEASED_GROUPS)

    def encode_vocabulary(self, vocabulary: PartVocabulary) -> PartTexts:
        """Texts of generic parts, objects that have parts and object-specific parts, each with the background's last.

        A name without ``'s`` is its own object and its own generic part. Names are encoded once for as long as the
        text tower stays as it is.
        """
        generic = (*vocabulary.generic_parts, *vocabulary.objects_with_parts)
        texts = self.encode_texts((*generic, *vocabulary.parts))
        ranks = vocabulary.object_to_object_with_parts
        return PartTexts(
            generic=torch.cat([texts[: len(generic)], texts[-1:]]),
            specific=texts[len(generic) :],
            part_to_generic=vocabulary.part_to_generic,
            part_to_object=tuple(ranks[owner] for owner in vocabulary.part_to_object),
            generic_count=len(vocabulary.generic_parts),
        )

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training losses of a batch; their sum is minimised.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized and cropped already), ``part_maps`` and ``object_maps``
                (lists of integer (H, W), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if
                given, are used in messages.

        Returns:
            Those of :func:`systems.partcatseg.losses.segmentation_losses`, and ``loss_compositional`` unless its weight
            is 0. Scalars, float32.

        Raises:
            ValueError: no object maps, part and object map of different sizes, or a label that is neither in the
                vocabulary nor its ignore label; the message names the image.
        """
        aggregator, chunks = self.aggregator, self.chunks
        self.check_vocabulary(batch["vocabulary"])
        inputs = self._squares(batch["images"], test=False)
        texts, targets = self._texts_and_targets(batch, inputs.covered)
        # dense CLIP features; structural guidance from DINOv2
        dense, maps = self.encode_images(inputs)
        guidance = aggregator.appearance(maps)
        # object- and part-level cost aggregation, then object-specific part-level cost aggregation
        first = aggregator.first_stage(dense.features, texts, guidance, chunks)
        aware = aggregator.object_aware_features(first, texts)
        second = aggregator.second_stage(aware, texts, guidance, chunks)
        # segmentation losses of both stages
        losses = segmentation_losses(
            aggregator.decode(first, guidance, chunks),
            aggregator.decode(second, guidance, chunks),
            targets,
            texts.generic_count,
            self.background_weight,
            recompute=self.checkpoint_aggregator,
        )
        # compositional loss, on what each stage aggregates: CLIP's costs of objects, and the second stage's costs
        if self.compositional_weight:
            owners = sorted(set(texts.part_to_object))  # all objects, unless some of the parts were chosen
            rows = [*(texts.generic_count + owner for owner in owners), len(texts.generic) - 1]
            part_to_owner = [owners.index(owner) for owner in texts.part_to_object]
            object_cost = mean_cost(dense.features, texts.generic[rows])
            specific_cost = aware.over_parts(mean_cost, texts, chunks)
            distance = compositional_loss(object_cost, specific_cost, part_to_owner, self.divergence)
            losses["loss_compositional"] = self.compositional_weight * distance
        return losses

    def score(self, images: Sequence[Tensor], request: Request) -> list[tuple[Scores, Maps]]:
        """Logits at four times the resolution of the cost volume.

        Every part of the vocabulary takes part in class attention, whatever is asked for. Maps: ``cost`` of the parts,
        which the second stage aggregates; ``generic_cost`` of the generic parts and objects these belong to, the first
        stage's; ``attention`` of CLIP's image tower.

        Returns:
            For each image scores of n asked classes: logits (n, 4h, 4w) and background (4h, 4w), for CLIP's h x w
            patches.
        """
        aggregator, chunks = self.aggregator, self.chunks
        vocabulary, parts, inspected = request.vocabulary, list(request.class_ids), request.inspected
        inputs = self._squares(images, test=True)
        texts = self.encode_vocabulary(vocabulary)
        dense, maps = self.encode_images(inputs, keep_attention=inspected)
        guidance = aggregator.appearance(maps)
        kept: list[dict[int, Tensor] | None] = [{}, {}] if inspected else [None, None]
        # object- and part-level cost aggregation; decoded only to be looked at: its logits serve training
        first = aggregator.first_stage(dense.features, texts, guidance, chunks, kept[0])
        aware = aggregator.object_aware_features(first, texts)
        if inspected:
            rows, words = _generic_of(parts, texts), _first_stage_names(vocabulary)
            generic = aggregator.decode(first[:, rows], guidance, chunks)
            generic_cost = mean_cost(dense.features, texts.generic[rows])
        del first
        # object-specific part-level cost aggregation
        second = aggregator.second_stage(aware, texts, guidance, chunks, kept[1])
        cost = aware.over_parts(mean_cost, texts, chunks) if inspected else None
        del aware
        # upsampling decoder
        channels = [*parts, len(vocabulary.parts)] if request.background else parts
        if channels != list(range(second.shape[1])):
            second = second[:, channels]
        logits = aggregator.decode(second, guidance, chunks)
        results = []
        for number, (image, covered) in enumerate(zip(images, inputs.covered, strict=True)):
            scores, found = self._picture_scores(image, covered, logits[number], request), {}
            if inspected:
                names = tuple(vocabulary.parts[part] for part in parts)
                generics = tuple(words[row] for row in rows)
                of_objects, of_parts = (
                    {layer: weights[number][ids] for layer, weights in attention.items()}
                    for attention, ids in zip(kept, (rows, parts), strict=True)
                )
                classes = (*vocabulary.parts, BACKGROUND)
                found["cost"] = CostMaps(cost[number, parts], logits[number, : len(parts)], of_parts, names, classes)
                found["generic_cost"] = CostMaps(generic_cost[number], generic[number], of_objects, generics, words)
                found["attention"] = self._clip_attention(dense, number, names)
            results.append((scores, found))
        return results

    def _texts_and_targets(
        self, batch: dict[str, Any], covered: Sequence[tuple[float, float]]
    ) -> tuple[PartTexts, list[PartTargets]]:
        """Texts that a batch is scored for, and its labels, whose squares span ``covered``, in the texts' numbers."""
        vocabulary, images = batch["vocabulary"], batch["images"]
        counts = {"part": len(vocabulary.parts), "object": len(vocabulary.objects)}
        parts, objects = (
            [labels.to(self.device) for labels in covered_labels(batch_labels(batch, kind), images, covered, count)]
            for kind, count in counts.items()
        )
        for number, maps in enumerate(zip(batch["part_maps"], batch["object_maps"], strict=True)):
            if maps[0].shape != maps[1].shape:
                raise ValueError(
                    f"image {number} of the batch has a part map and an object map of different sizes: "
                    f"{tuple(maps[0].shape)} and {tuple(maps[1].shape)}"
                )
        shown = [torch.cat([labels.unique() for labels in maps]) for maps in (parts, objects)]
        chosen = chosen_queries(shown[0], counts["part"], self.training_queries)[:-1].tolist()
        queries = part_queries(vocabulary, chosen, objects=shown[1].tolist(), device=self.device)
        to_part, to_generic, to_object = (table.to(self.device) for table in queries.tables(vocabulary, chosen))
        to_object = torch.where(to_object < 0, NO_LABEL, to_object - len(queries.generics))
        targets = [
            PartTargets(to_part[part_map], to_generic[part_map], to_object[object_map])
            for part_map, object_map in zip(parts, objects, strict=True)
        ]
        return self.encode_vocabulary(vocabulary).of(queries, chosen), targets


def _first_stage_names(vocabulary: PartVocabulary) -> tuple[str, ...]:
    """Names of the first stage's texts. A name says which it is, for a word may be both ("shelf")."""
    parts = (f"{word} (part)" for word in vocabulary.generic_parts)
    return (*parts, *(f"{word} (object)" for word in vocabulary.objects_with_parts), BACKGROUND)


def _generic_of(part_ids: Sequence[int], texts: PartTexts) -> list[int]:
    """Rows of the first stage that object-specific parts draw on, generic parts first, each once."""
    parts = dict.fromkeys(texts.part_to_generic[part] for part in part_ids)
    objects = dict.fromkeys(texts.part_to_object[part] for part in part_ids)
    return [*parts, *(texts.generic_count + owner for owner in objects)]

"""PartCATSeg's two stages of cost aggregation.

The first stage aggregates the costs of generic parts, objects and background together: the paper calls this
disentangled; in the released code they share the layers and attend to each other. The second joins the aggregated
maps of each object-specific part's generic part and object into features in the space of the text embeddings, compares
them with the object-specific part's own text, and aggregates again.

Where the paper's equations are:

- pictures, at 640 to 768 pixels, padded, and squashed to the squares that CLIP and DINOv2 take:
  :func:`models.cost_aggregation.inputs.square_inputs`; generic part and object of each part: :class:`PartVocabulary`;
- dense CLIP features F, the last block reduced to its value path: :mod:`models.clip.dense`; texts T(n, p) of class n in
  prompt p, and the background's: :meth:`CostSegmenter.encode_texts`;
- cost volumes ``C(i, n, p) = cos(F(i), T(n, p))`` of dense CLIP features F with texts T of parts and of objects:
  :meth:`PartAggregator.first_stage`, by :func:`models.cost_aggregation.cost_volume`; embedded, prompts as channels, by
  :class:`models.cost_aggregation.cost_volume.CostEmbedding`;
- structural guidance, DINOv2's features projected and joined with the cost in the queries and keys of spatial
  aggregation, and in the decoder ("appearance guidance" in the shared blocks): :class:`AppearanceGuidance`, used by
  :class:`models.cost_aggregation.spatial.SpatialAggregation` (:class:`GuidedLinear` joins ``[x ; guidance]``) and
  :class:`models.cost_aggregation.decoder.GuidedDecoder`; DINOv2 itself:
  :class:`models.backbones.guidance.DinoGuidance`;
- text guidance ``g(n) = ReLU(W norm(mean_p T(n, p)) + b)``, joined in the queries and keys of class aggregation:
  :class:`TextGuidance`;
- spatial and class aggregation, ``C' = class(spatial(C))`` in every layer: :func:`models.cost_aggregation.aggregate`,
  with windows in :class:`SpatialAggregation` and the softmax over the query axis in
  :func:`models.cost_aggregation.class_attention.attention_weights`;
- object-aware part features ``W [C'_part ; C'_object] + b``: :meth:`PartAggregator.object_aware_features`; their
  cosines with the texts of object-specific parts, aggregated again: :meth:`PartAggregator.second_stage`;
- upsampling decoder, one for both stages: :class:`models.cost_aggregation.decoder.GuidedDecoder`;
- segmentation losses of parts, objects and object-specific parts, and the compositional loss:
  :mod:`systems.partcatseg.losses`; gathered in :meth:`PartCatseg.loss`, with the weight of the
  latter, and summed by the training loop;
- background: :attr:`CostSegmenter.background_text`, always the last text; in labels: :class:`PartTargets`;
- inference: :meth:`PartCatseg.score`, then :func:`evaluation.label_maps.oracle_map` or ``pred_all_map``, which resize
  the sigmoid;
- the start from CAT-Seg's weights: :func:`systems.partcatseg.weights.load_partcatseg`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.models.cost_aggregation import (
    AggregatorSize,
    AppearanceGuidance,
    Chunks,
    ImageGuidance,
    TextGuidance,
    aggregate,
    cost_volume,
)
from ovparts_lib.systems.part_queries import PartQueries


@dataclass
class PartTexts:
    """The texts of a vocabulary as PartCATSeg uses them; all embeddings are normalised, the background comes last.

    Attributes:
        generic: (g + o + 1, p, d): generic parts, objects that have parts, background.
        specific: (n + 1, p, d): object-specific parts, background.
        part_to_generic: for each of the n object-specific parts, its generic part, 0..g-1.
        part_to_object: for each of the n object-specific parts, its object, 0..o-1.
        generic_count: g.
    """

    generic: Tensor
    specific: Tensor
    part_to_generic: tuple[int, ...]
    part_to_object: tuple[int, ...]
    generic_count: int

    def of(self, queries: PartQueries, parts: Sequence[int]) -> PartTexts:
        """The texts of some object-specific parts and of what the ``queries`` made for them hold."""
        count = len(queries.generics)
        return PartTexts(
            generic=self.generic[queries.rows],
            specific=self.specific[[*parts, -1]],
            part_to_generic=tuple(queries.part_queries[:-1].tolist()),
            part_to_object=tuple((queries.object_queries[:-1] - count).tolist()),
            generic_count=count,
        )


@dataclass
class ObjectAware:
    """Features of object-specific parts, as summands that many of them share.

    Attributes:
        parts: (b, g + 1, h, w, d), of generic parts and background.
        objects: (b, o + 1, h, w, d), of objects and background.
    """

    parts: Tensor
    objects: Tensor

    def over_parts(self, function: Callable[[Tensor, Tensor], Tensor], texts: PartTexts, chunks: Chunks) -> Tensor:
        """Do something for every object-specific part and the background, a chunk of them at a time.

        Args:
            function: of features (b, t, d, h, w) and texts (t, p, d); gives a tensor (b, t, …).
            texts: the object-specific parts; the rest of the vocabulary must be that of the features.
            chunks: how much to compute at once.

        Returns:
            (b, n + 1, …).
        """
        owners = (self.parts, texts.part_to_generic), (self.objects, texts.part_to_object)
        # the background joins the background's maps of both: the last row of each
        rows = [torch.tensor([[*some, shared.shape[1] - 1]], device=shared.device) for shared, some in owners]

        def joined(part_rows: Tensor, object_rows: Tensor, text: Tensor) -> Tensor:
            features = self.parts[:, part_rows[0]] + self.objects[:, object_rows[0]]
            return function(rearrange(features, "b t h w d -> b t d h w"), text[0])

        return chunks.over(joined, *rows, texts.specific[None], tokens=self.parts[:, 0, ..., 0].numel())


class PartAggregator(nn.Module):
    """Both stages and the decoder they share.

    Args:
        size: of the blocks, the same in both stages.
        channels: widths of the guidance backbone's features, coarse to fine; empty for no guidance by an image.
    """

    def __init__(self, size: AggregatorSize, channels: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.appearance = AppearanceGuidance(size, channels)
        self.text_guidance = TextGuidance(size) if size.text_guidance_dim else None
        self.embedding = size.embedding()
        self.layers = size.layer_stack()
        self.object_aware = nn.Linear(2 * size.dim, size.text_dim)
        self.specific_embedding = size.embedding()
        self.specific_layers = size.layer_stack()
        self.decoder = size.decoder()
        self.copy_first_stage()

    def copy_first_stage(self) -> None:
        """Set the second stage's embedding and layers to the first's."""
        self.specific_embedding.load_state_dict(self.embedding.state_dict())
        self.specific_layers.load_state_dict(self.layers.state_dict())

    def first_stage(
        self,
        features: Tensor,
        texts: PartTexts,
        guidance: ImageGuidance,
        chunks: Chunks,
        attention: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Aggregate the costs of generic parts, objects and background.

        Args:
            features: dense CLIP features (b, d, h, w), not normalised.
            texts: of the vocabulary.
            guidance: of the image.
            chunks: how much to compute at once.
            attention: receives ``{layer: (b, g + o + 1, g + o + 1)}``, the mean class attention; None if not wanted.

        Returns:
            (b, g + o + 1, h, w, dim).
        """
        # cost volumes of parts and objects, embedded
        x = chunks.over(
            lambda text: self.embedding(cost_volume(features, text[0])),
            texts.generic[None],
            tokens=features[:, 0].numel(),
        )
        # spatial and class aggregation, guided by DINOv2 and by the texts
        return self._aggregate(self.layers, x, texts.generic, guidance, chunks=chunks, attention=attention)

    def object_aware_features(self, x: Tensor, texts: PartTexts) -> ObjectAware:
        """Project the first stage into the space of texts, once per generic part and per object.

        A linear layer on the joined maps of part and object is the sum of two, each of which has far fewer inputs than
        there are object-specific parts.

        Args:
            x: what :meth:`first_stage` returned, (b, g + o + 1, h, w, dim).
            texts: of the vocabulary.

        Returns:
            Summands (b, g + 1, h, w, d) of generic parts and (b, o + 1, h, w, d) of objects, d being the texts' width.
        """
        count, dim = texts.generic_count, x.shape[-1]
        # W [C'_part ; C'_object] + b = W_part C'_part + (W_object C'_object + b)
        weight, bias = self.object_aware.weight, self.object_aware.bias
        parts = F.linear(torch.cat([x[:, :count], x[:, -1:]], dim=1), weight[:, :dim])
        return ObjectAware(parts, F.linear(x[:, count:], weight[:, dim:], bias))

    def second_stage(
        self,
        aware: ObjectAware,
        texts: PartTexts,
        guidance: ImageGuidance,
        chunks: Chunks,
        attention: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Compare every object-specific part's features with its own texts, and aggregate these costs.

        Args:
            aware: features of object-specific parts.
            texts: of the vocabulary.
            guidance: of the image.
            chunks: how much to compute at once.
            attention: receives ``{layer: (b, n + 1, n + 1)}``, the mean class attention; None if not wanted.

        Returns:
            (b, n + 1, h, w, dim).
        """
        # cost volume of object-specific parts: each text with features of its own
        x = aware.over_parts(lambda part, text: self.specific_embedding(cost_volume(part, text)), texts, chunks)
        return self._aggregate(self.specific_layers, x, texts.specific, guidance, chunks=chunks, attention=attention)

    def decode(self, x: Tensor, guidance: ImageGuidance, chunks: Chunks) -> Tensor:
        """Logits float32 (b, t, 4h, 4w) of any classes (b, t, h, w, dim) of either stage."""
        return self.decoder(x, guidance.decoder, chunks=chunks)

    def _aggregate(
        self, layers: nn.ModuleList, x: Tensor, text: Tensor, guidance: ImageGuidance, **settings: Any
    ) -> Tensor:
        """One stage's layers on its embedded cost (b, t, h, w, dim), guided by its texts (t, p, d) and the image."""
        text_guidance = None if self.text_guidance is None else self.text_guidance(text)
        return aggregate(layers, x, guidance.aggregator, text_guidance, pooling=self.size.pooling, **settings)

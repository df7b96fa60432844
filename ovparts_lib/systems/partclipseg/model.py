"""PartCLIPSeg: object-specific parts from generalised parts and objects, with control of the decoder's attention.

CLIPSeg's decoder runs once per generic part ("head") and once per object ("dog"). The logits of an object-specific part
come from the pair: features of both, joined, conditioned on both texts, and brought to pixels by a second head.
Sources: Choi et al., "Understanding Multi-Granularity for Open-Vocabulary Part Segmentation", NeurIPS 2024, sections
3.2 to 3.4, and the code released with it.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from ovparts_lib.checked import checked_arguments
from ovparts_lib.images import square_pixels
from ovparts_lib.systems.base import batch_labels, chosen_queries
from ovparts_lib.systems.part_queries import PartQueries, part_queries, query_texts
from ovparts_lib.systems.partclipseg.decoder import PartclipsegDecoder
from ovparts_lib.systems.partclipseg.losses import (
    PartTargets,
    attention_terms,
    mean_attention_terms,
    part_object_loss,
    region_mean,
    region_sums,
)
from ovparts_lib.systems.partclipseg.options import AttentionRule, LossMean, ObjectText
from ovparts_lib.systems.query_segmenter import MINIATURE_QUERY, RELEASED, RELEASED_GROUPS, QuerySegmenter, QuerySize
from ovparts_lib.systems.scores import AttentionMaps, Maps, Request, Scores
from ovparts_lib.vocabularies import PartVocabulary

LogitsOf = Callable[[slice], Tensor]
SIZES = {"released": RELEASED, "miniature": MINIATURE_QUERY}


class Partclipseg(QuerySegmenter):
    """PartCLIPSeg. See the module's docstring.

    Args:
        size: hyper-parameters, ``RELEASED`` or ``MINIATURE_QUERY``.
        object_text: whose text fills the object's slot of a pair. ``"object"``: the object's. ``"released"``: as in the
            released code, which reads the object's number in the list that begins with the generic parts, and so
            mostly finds a part's text; the released weights are trained with it and need it.
        object_weight: weight of the objects' own logits in the loss.
        part_weight: weight of the generic parts' own logits.
        separation_weight: weight of the attention-separation loss.
        enhancement_weight: weight of the attention-enhancement loss.
        attention_threshold: of attention, stretched to 0..1, above which a part claims a patch.
        attention_rule: ``"corrected"`` or ``"released"``, see :func:`losses.attention_terms`.
        attention_layer: the decoder's layer whose attention is controlled; -1 is the last one, as released.
        loss_mean: ``"image"``: the loss of each image by itself, then the mean over images, which is what the published
            training on eight devices with an image each amounts to; ``"batch"``: over all pixels of a batch, as the
            released code does on one device.
        **shared: those of :class:`QuerySegmenter`; of ``training_queries`` the generic parts and objects are decoded.

    Raises:
        ValueError: an option out of its range.
    """

    needs_parts = True
    decoder: PartclipsegDecoder
    decoder_class = PartclipsegDecoder

    @checked_arguments
    def __init__(
        self,
        size: QuerySize = RELEASED,
        *,
        object_text: ObjectText = "object",
        object_weight: NonNegativeFloat = 1.0,
        part_weight: NonNegativeFloat = 1.0,
        separation_weight: NonNegativeFloat = 0.1,
        enhancement_weight: NonNegativeFloat = 0.01,
        attention_threshold: Annotated[float, Field(ge=0, le=1)] = 0.3,
        attention_rule: AttentionRule = "corrected",
        attention_layer: int = -1,
        loss_mean: LossMean = "image",
        **shared: Any,
    ) -> None:
        depth = len(size.extract_layers)
        if not -depth <= attention_layer < depth:
            raise ValueError(f"attention_layer must be from {-depth} to {depth - 1}, not {attention_layer}")
        super().__init__(size, **shared)
        self.object_weight, self.part_weight = object_weight, part_weight
        self.separation_weight, self.enhancement_weight = separation_weight, enhancement_weight
        self.attention_threshold, self.attention_rule = attention_threshold, attention_rule
        self.attention_layer, self.object_text, self.loss_mean = attention_layer % depth, object_text, loss_mean
        # the head of the queries' own logits, where no term trains it: several devices cannot train a model with
        # parameters that get no gradient
        self.frozen = () if object_weight or part_weight else ("decoder.head.",)
        self.set_trainable(RELEASED_GROUPS)

    def texts_of(self, vocabulary: PartVocabulary) -> list[tuple[str, ...]]:
        """The object and the part of each class, which are queries of their own."""
        return list(vocabulary.pairs)

    def encode_vocabulary(self, vocabulary: PartVocabulary) -> Tensor:
        """Conditions (n, embed_dim) of generic parts and objects with parts, unnormalised, without the background's.

        With gradient if the model is in training mode, gradients are enabled and the text tower has parameters that
        train; otherwise from the cache.
        """
        return self._encode_prompts(query_texts(vocabulary))

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch, a weighted entry per term; terms of weight 0 are left out.

        Pixels with a part label teach the object-specific and the generic parts; pixels outside objects that have
        parts teach that no object-specific part is there; all pixels teach the objects. So a pixel of an object without
        a part label says nothing about parts, and objects without parts, or not in the vocabulary, are background. The
        embeddings of the words get gradients in training mode only (``model.train()``).

        Args:
            batch: ``images`` (list of uint8 (3, h, w)), ``part_maps`` and ``object_maps`` (lists of integer (H, W), ids
                of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are used in messages.

        Returns:
            ``loss_part_object``, ``loss_object``, ``loss_part``, ``loss_separation``, ``loss_enhancement``: scalars,
            float32.

        Raises:
            ValueError: there are no object maps, or a label is neither in the vocabulary nor its ignore label; the
                message names the image.
        """
        vocabulary = batch["vocabulary"]
        self.check_vocabulary(vocabulary)
        queries, targets = self._targets(batch)
        # CLIPSeg's encoder and decoder, once per generic part and object
        pixels = square_pixels(batch["images"], self.size.image_size, self.device)
        reduced, grid, _ = self._encode_images(pixels)
        conditions = torch.cat([self.encode_vocabulary(vocabulary), self.background_query])
        tokens, entered, _ = self._decode_queries(reduced, conditions[queries.rows])
        regions = targets.regions()
        sizes = regions.sum((2, 3))
        pairs, last = len(queries.part_queries) - 1, len(queries.rows) - 1
        generics = len(queries.generics)
        has_object = (targets.objects >= 0).flatten(1).any(1)

        def sums(logits_of: LogitsOf, first: int, stop: int, positives: Tensor) -> Tensor:
            return self._channel_sums(logits_of, first, stop, positives, regions)

        def background_sums(logits_of: LogitsOf, channel: int) -> Tensor:
            positives = torch.where(targets.objects < 0, channel, -1)
            return self.background_weight * sums(logits_of, channel, channel + 1, positives)

        # object-specific parts, reconstructed from generalised parts and objects
        logits_of = self._pair_logits(tokens, conditions, queries, grid)
        found = sums(logits_of, 0, pairs, targets.parts) + background_sums(logits_of, pairs)
        losses = {"loss_part_object": part_object_loss(found, sizes, has_object, pairs + 1, self.loss_mean)}
        # object-level and part-level guidance
        logits_of = self._own_logits(tokens, grid)
        if self.object_weight:
            found = sums(logits_of, generics, last, targets.objects) + background_sums(logits_of, last)
            mean = region_mean(found[:, 2], sizes[:, 2], len(queries.objects) + 1, self.loss_mean)
            losses["loss_object"] = self.object_weight * mean
        if self.part_weight:
            found = sums(logits_of, 0, generics, targets.generics)
            mean = region_mean(found[:, 0], sizes[:, 0], generics, self.loss_mean)
            losses["loss_part"] = self.part_weight * mean
        # attention control: separation and enhancement
        if self.separation_weight or self.enhancement_weight:
            separation, enhancement = self._attention_losses(entered, queries, targets, grid)
            if self.separation_weight:
                losses["loss_separation"] = self.separation_weight * separation
            if self.enhancement_weight:
                losses["loss_enhancement"] = self.enhancement_weight * enhancement
        return losses

    def score(self, images: Sequence[Tensor], request: Request) -> list[tuple[Scores, Maps]]:
        """Logits at ``image_size`` squared; with the background those of all objects that have parts.

        Only the generic parts and objects of ``class_ids``, and of these, are decoded. Maps: the ``attention`` of the
        image tower and the decoder, for every part the mean of its generic part's and its object's map, and those two
        as its components; ``generic_parts``, the generic parts' own logits, which no label map uses.
        """
        vocabulary, class_ids, background = request.vocabulary, request.class_ids, request.background
        shown = range(len(vocabulary.objects)) if background else ()
        queries = part_queries(vocabulary, class_ids, objects=shown, background=background, device=self.device)
        count, generics = len(class_ids), len(queries.generics)
        # CLIPSeg's encoder and decoder, once per generic part and object
        pixels = square_pixels(images, self.size.image_size, self.device)
        reduced, grid, clip_attention = self._encode_images(pixels, request.inspected)
        conditions = torch.cat([self.encode_vocabulary(vocabulary), self.background_query])
        kept = queries.of_parts(count) if request.inspected else None
        tokens, _, attention = self._decode_queries(reduced, conditions[queries.rows], kept)
        # object-specific parts, reconstructed from generalised parts and objects
        pairs = self._all_logits(self._pair_logits(tokens, conditions, queries, grid), 0, count + background, images)
        # the queries' own logits: objects, among which pred-all chooses first, and generic parts
        own_logits = self._own_logits(tokens, grid)
        if background:
            objects = self._all_logits(own_logits, generics, len(queries.rows), images)
        if request.inspected:
            parts = self._all_logits(own_logits, 0, generics, images)
        results = []
        for number, image in enumerate(images):
            size, maps = tuple(image.shape[-2:]), {}
            scores = Scores(pairs[number, :count], class_ids, pairs[number, count] if background else None, size)
            if background:
                scores.objects = Scores(objects[number, :-1], queries.objects, objects[number, -1], size)
            if request.inspected:
                clip = {block: weights[number] for block, weights in clip_attention.items()}
                decoder = {layer: weights[number] for layer, weights in enumerate(attention)}
                maps["attention"] = _part_attention(vocabulary, class_ids, queries, kept, grid, decoder, clip)
                maps["generic_parts"] = Scores(parts[number], queries.generics, None, size)
            results.append((scores, maps))
        return results

    def _decode_queries(
        self, reduced: list[Tensor], conditions: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The decoder up to its heads, a chunk of the queries at a time.

        Args:
            reduced: query-independent activations.
            conditions: (n, embed_dim).
            kept: ascending positions of the queries whose attention weights are wanted.

        Returns:
            Patches of every query (b, n, p, width); what entered the layer whose attention is controlled,
            (b, n, p + 1, width); and per layer the weights of the ``kept`` queries, (b, k, heads, t, t).
        """
        length = self._chunk_length(len(reduced[0]))
        watched = torch.zeros(len(conditions), dtype=torch.bool, device=conditions.device)
        if kept is not None:
            watched[kept] = True

        def decode(chunk: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
            tokens, entered, attention = self.decoder.tokens(reduced, chunk, bool(rows.any()))
            return tokens[:, :, 1:], entered[self.attention_layer], [weights[:, rows] for weights in attention]

        chunks = zip(conditions.split(length), watched.split(length), strict=True)
        parts = [self._recomputed(decode, *chunk) for chunk in chunks]
        tokens, entered = (torch.cat(each, dim=1) for each in list(zip(*parts, strict=True))[:2])
        attention = [torch.cat(maps, dim=1) for maps in zip(*(maps for *_, maps in parts if maps), strict=True)]
        return tokens, entered, attention

    def _pair_logits(self, tokens: Tensor, conditions: Tensor, queries: PartQueries, grid: tuple[int, int]) -> LogitsOf:
        """Logits (b, m, h, w) of any slice of the object-specific parts, the background last."""
        object_rows, part_rows = queries.pair_rows(released=self.object_text == "released")
        scale, shift = self.decoder.pair_conditions(conditions[object_rows], conditions[part_rows])
        as_part, as_object = self.decoder.mix(tokens)

        def logits_of(piece: slice) -> Tensor:
            mixed = as_part[:, queries.part_queries[piece]] + as_object[:, queries.object_queries[piece]]
            return self.decoder.pair_logits(mixed, scale[piece], shift[piece], grid)

        return logits_of

    def _own_logits(self, tokens: Tensor, grid: tuple[int, int]) -> LogitsOf:
        """Logits (b, m, h, w) of any slice of the queries themselves: generic parts, objects, background."""
        return lambda piece: self.decoder.map_logits(self.decoder.head, tokens[:, piece], grid)

    def _all_logits(self, logits_of: LogitsOf, first: int, stop: int, images: Sequence[Tensor]) -> Tensor:
        """Float32 logits (b, stop - first, h, w)."""
        pieces = _pieces(first, stop, self._chunk_length(len(images)))
        return torch.cat([logits_of(piece).float() for piece in pieces], dim=1)

    def _channel_sums(self, logits_of: LogitsOf, first: int, stop: int, positives: Tensor, regions: Tensor) -> Tensor:
        """Cross-entropy of channels ``first`` to ``stop - 1``, summed within regions, (b, r)."""

        def sums(piece: slice) -> Tensor:
            return region_sums(logits_of(piece), positives, piece.start, regions)

        pieces = _pieces(first, stop, self._chunk_length(len(positives)))
        return torch.stack([self._recomputed(sums, piece) for piece in pieces]).sum(0)

    def _attention_losses(
        self, entered: Tensor, queries: PartQueries, targets: PartTargets, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Separation and enhancement, unweighted scalars."""
        attention = self.decoder.layers[self.attention_layer].attention
        maps = torch.stack([targets.parts, targets.objects], dim=1)
        maps = self._resized_labels(maps.flatten(0, 1), grid).unflatten(0, maps.shape[:2])
        with torch.autocast(entered.device.type, enabled=False):
            found = [
                attention_terms(
                    attention,
                    entered[number].float(),
                    queries,
                    *maps[number],
                    pixel_parts=targets.parts[number].unique(),
                    pixel_objects=targets.objects[number].unique(),
                    threshold=self.attention_threshold,
                    rule=self.attention_rule,
                )
                for number in range(len(entered))
            ]
        return mean_attention_terms(found, self.loss_mean, self.attention_rule)

    def _targets(self, batch: dict[str, Any]) -> tuple[PartQueries, PartTargets]:
        """The queries to decode, and the labels in their numbers."""
        vocabulary, size = batch["vocabulary"], (self.size.image_size, self.size.image_size)
        objects = self._resized_labels(batch_labels(batch, "object"), size)
        parts = self._resized_labels(batch_labels(batch), size)
        chosen = chosen_queries(parts, len(vocabulary.parts), self.training_queries)[:-1].tolist()
        queries = part_queries(vocabulary, chosen, objects=objects.unique().tolist(), device=self.device)
        tables = zip(queries.tables(vocabulary, chosen), (parts, parts, objects), strict=True)
        return queries, PartTargets(*(table.to(self.device)[labels] for table, labels in tables))


def _pieces(first: int, stop: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, stop)) for start in range(first, stop, length)]


def _part_attention(
    vocabulary: PartVocabulary,
    class_ids: tuple[int, ...],
    queries: PartQueries,
    kept: Tensor,
    grid: tuple[int, int],
    decoder: dict[int, Tensor],
    clip: dict[int, Tensor],
) -> AttentionMaps:
    """Attention of one image, of parts from that of the ``kept`` queries, (k, heads, t, t) per layer."""
    of_part, of_object = (
        torch.searchsorted(kept, positions[: len(class_ids)].contiguous())
        for positions in (queries.part_queries, queries.object_queries)
    )
    kinds = ("part" if position < len(queries.generics) else "object" for position in kept.tolist())
    texts = zip(kinds, queries.texts(vocabulary, kept), strict=True)
    return AttentionMaps(
        grid=grid,
        decoder={layer: (weights[of_part] + weights[of_object]) / 2 for layer, weights in decoder.items()},
        clip=clip,
        queries=tuple(vocabulary.prompts[part] for part in class_ids),
        components={
            text: {layer: weights[place] for layer, weights in decoder.items()} for place, text in enumerate(texts)
        },
    )

"""CATSeg: cost aggregation over object-specific part names, a baseline of OV-PARTS.

Dense CLIP features and every part name, in every prompt template, give a volume of cosines; layers of spatial and class
attention refine it, guided by a second image backbone, and a decoder turns it into one logit map per part and one for
the background, whose text embedding is a parameter.
Sources: Cho et al., "CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation", CVPR 2024 (first release of
its code); Wei et al., "OV-PARTS", NeurIPS 2023 (B+D fine-tuning); and the DINOv2 variant released with PartCATSeg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ovparts_lib.models.backbones.guidance import GuidanceSize
from ovparts_lib.models.clip.dense import DenseFeatures
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, ClipSize
from ovparts_lib.models.cost_aggregation import (
    AggregatorSize,
    AppearanceGuidance,
    TextGuidance,
    aggregate,
    cost_volume,
    mean_cost,
)
from ovparts_lib.models.cost_aggregation.inputs import InputSize, SlidingWindow, sliding_inputs, square_inputs, squash
from ovparts_lib.models.cost_aggregation.targets import covered_labels, part_segmentation_loss
from ovparts_lib.systems.catseg.base import BACKGROUND_WEIGHT, SHARED_GROUPS, CostSegmenter
from ovparts_lib.systems.queries import checked_part_ids, chosen_queries
from ovparts_lib.systems.scores import BACKGROUND, AttentionMaps, CostMaps, PartScores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

TRAINABLE_GROUPS = {
    "aggregator": ("appearance.", "text_guidance.", "embedding.", "layers.", "decoder."),
    **SHARED_GROUPS,
}
RELEASED_GROUPS = ("guidance", "aggregator")
# CAT-Seg's rates. OV-PARTS' code has none for CLIP: fine-tuned there, CLIP would learn at the full rate.
LR_MULTIPLIERS = {"guidance": 0.01, "clip_attention": 0.01, "clip_visual": 0.01}
PADDING = ("cut", "stretched")


@dataclass(frozen=True)
class CatsegSize:
    """Hyper-parameters of CATSeg.

    Attributes:
        clip: the CLIP underneath.
        inputs: how pictures become squares.
        guidance: the backbone that guides.
        aggregator: the aggregator and decoder.
        templates: key of :data:`models.clip.prompts.TEMPLATES`.
    """

    clip: ClipSize = VIT_B_16
    inputs: InputSize = field(default_factory=InputSize)
    guidance: GuidanceSize = field(default_factory=GuidanceSize)
    aggregator: AggregatorSize = field(default_factory=AggregatorSize)
    templates: str = "imagenet"

    def __post_init__(self) -> None:
        if self.templates not in TEMPLATES:
            raise ValueError(f"templates must be one of {', '.join(TEMPLATES)}, not {self.templates!r}")
        wanted, given = len(TEMPLATES[self.templates]), self.aggregator.prompts
        if wanted != given:
            raise ValueError(f"templates {self.templates!r} are {wanted}, but the aggregator has {given} prompts")
        if self.aggregator.text_dim != self.clip.embed_dim:
            raise ValueError(f"text_dim {self.aggregator.text_dim} is not CLIP's embed_dim {self.clip.embed_dim}")
        side, patch, window = self.inputs.image_size, self.clip.patch_size, self.aggregator.window
        if side % patch or (side // patch) % window:
            raise ValueError(f"image_size {side} must give patches of {patch} pixels in windows of {window} patches")
        guided = self.aggregator.guidance_dim or any(self.aggregator.decoder_guidance_dims)
        if bool(guided) != (self.guidance.kind != "none"):
            raise ValueError(
                "a guidance backbone and guidance dims in the aggregator go together: give both or neither"
            )


RELEASED = CatsegSize()
RELEASED_DINOV2 = CatsegSize(guidance=GuidanceSize("dinov2_vits14", 448))
MINIATURE_CATSEG = CatsegSize(
    clip=MINIATURE,
    inputs=InputSize(96, shortest_edge=96, longest_edge=192, divisor=1, clip_statistics="imagenet"),
    guidance=GuidanceSize("small", 96, channels=(32, 16, 8), clip_layer=4),
    aggregator=AggregatorSize(
        prompts=3,
        text_dim=96,
        dim=32,
        layers=1,
        heads=2,
        window=6,
        kernel=3,
        guidance_dim=32,
        text_guidance_dim=32,
        decoder_dims=(16, 16),
        decoder_guidance_dims=(8, 8),
    ),
    templates="miniature",
)


def without_guidance(size: CatsegSize) -> CatsegSize:
    """The same model without image guidance, for comparison: no backbone, and nothing of it in the aggregator."""
    none = replace(size.aggregator, guidance_dim=0, decoder_guidance_dims=(0,) * len(size.aggregator.decoder_dims))
    return replace(size, guidance=GuidanceSize("none"), aggregator=none)


class Catseg(CostSegmenter):
    """CATSeg for object-specific parts. See the module's docstring.

    The parameters in ``RELEASED_GROUPS`` train from the start; :meth:`set_trainable` changes that.

    Args:
        size: hyper-parameters, ``RELEASED``, ``RELEASED_DINOV2`` or ``MINIATURE_CATSEG``.
        training_queries: in training, score only this many parts a step: those that occur in the batch, and others
            drawn at random with torch's generator. None scores all parts of the vocabulary, as published.
        background_weight: weight of the background's terms in the loss; the others weigh 1.
        background_class: whether the background is one of the classes, as in all experiments on parts. False is
            upstream CAT-Seg, which has no text for it: unlabelled pixels are then negative for every class, and the
            scores have no background.
        padding: pictures are padded before they are squashed. ``"cut"`` says in the scores how far the maps reach
            beyond the picture, and in training the padding is background; ``"stretched"``, as released, takes them for
            maps of the picture alone.
        sliding_window: score overlapping crops and the whole picture, as CAT-Seg was evaluated on scenes; otherwise the
            whole picture only, as in all experiments on parts.
        window: how the crops are cut.
        pooling: in :meth:`predict`, positions averaged along each axis before class attention; None for 1 with a
            sliding window, as CAT-Seg was evaluated on scenes, and otherwise the size's, with which the model trains.
        chunk_tokens: positions x classes x images computed at once; bounds memory and changes no result. None chooses
            by device.
        checkpoint_aggregator: in training, keep no activations of aggregator and decoder but compute them a second
            time in the backward pass.
        lr_multipliers: factors of the learning rate by trainable group; 1 for groups that are not named.

    Raises:
        ValueError: an option out of its range.
    """

    groups = TRAINABLE_GROUPS

    def __init__(
        self,
        size: CatsegSize = RELEASED,
        *,
        training_queries: int | None = None,
        background_weight: float = BACKGROUND_WEIGHT,
        background_class: bool = True,
        padding: Literal["cut", "stretched"] = "cut",
        sliding_window: bool = False,
        window: SlidingWindow | None = None,
        pooling: int | None = None,
        chunk_tokens: int | None = None,
        checkpoint_aggregator: bool = False,
        lr_multipliers: Mapping[str, float] = LR_MULTIPLIERS,
    ) -> None:
        super().__init__(
            size.clip,
            size.guidance,
            size.templates,
            training_queries=training_queries,
            background_weight=background_weight,
            chunk_tokens=chunk_tokens,
            checkpoint_aggregator=checkpoint_aggregator,
            lr_multipliers=lr_multipliers,
        )
        if padding not in PADDING:
            raise ValueError(f"padding must be 'cut' or 'stretched', not {padding!r}")
        self.size, self.padding, self.sliding_window = size, padding, sliding_window
        self.background_class = background_class
        self.window = window or SlidingWindow.around(size.inputs.image_size)
        usual = 1 if sliding_window else size.aggregator.pooling
        self.pooling = usual if pooling is None else pooling
        grid = size.inputs.image_size // size.clip.patch_size
        if self.pooling < 1 or grid % self.pooling:
            raise ValueError(f"pooling must divide the {grid} patches of a side, not {self.pooling}")
        guided = self.guidance is not None
        self.appearance = AppearanceGuidance(size.aggregator, self.guidance.channels) if guided else None
        self.text_guidance = TextGuidance(size.aggregator) if size.aggregator.text_guidance_dim else None
        self.embedding = size.aggregator.embedding()
        self.layers = size.aggregator.layer_stack()
        self.decoder = size.aggregator.decoder()
        self.set_trainable(RELEASED_GROUPS)

    def encode_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Normalised embeddings of a vocabulary's parts in all templates, (parts, templates, embed_dim), cached."""
        return self.names.encode(self.clip, vocabulary.parts, self.templates)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch: weighted binary cross-entropy over parts and background.

        A pixel without a part of the vocabulary, inside an object or not, is background, or without
        ``background_class`` negative for every part.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized and cropped already), ``part_maps`` (list of int64
                (H, W), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are used in
                messages.

        Returns:
            ``{"loss_sem_seg": scalar}``, float32.

        Raises:
            ValueError: a label is neither a part of the vocabulary nor its ignore label; the message names the image.
        """
        vocabulary, images = batch["vocabulary"], batch["images"]
        count, names = len(vocabulary.parts), vocabulary.parts
        inputs = square_inputs(images, self.size.inputs, self.size.guidance.image_size, self.device, test=False)
        stretched = [tuple(image.shape[-2:]) for image in images]
        targets = covered_labels(
            batch["part_maps"],
            images,
            stretched if self.padding == "stretched" else inputs.covered,
            kind="part",
            count=count,
            ignore_label=vocabulary.ignore_label,
            image_ids=batch.get("image_ids"),
        )
        targets = [target.to(self.device) for target in targets]
        if self.training_queries is not None and self.training_queries < count:
            chosen = chosen_queries(torch.cat([target.unique() for target in targets]), count, self.training_queries)
            targets = [torch.searchsorted(chosen, target) for target in targets]
        else:
            chosen = torch.arange(count + 1, device=self.device)
        # Without a background class its number stays behind in the targets, and no channel is positive there.
        text = self.encode_texts(names)[chosen if self.background_class else chosen[:-1]]
        dense, maps = self.encode_images(inputs)
        logits = self._logits(dense.features, maps, text, self.size.aggregator.pooling)
        weight = self.background_weight if self.background_class else 1.0
        loss = part_segmentation_loss(logits, targets, weight, recompute=self.checkpoint_aggregator)
        return {"loss_sem_seg": loss}

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        part_ids: Sequence[int] | None = None,
        background: bool = True,
        keep_attention: bool = False,
    ) -> list[PartScores]:
        """Score the parts of a vocabulary on images.

        Every part of the vocabulary takes part in class attention, whatever is asked for.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ.
            vocabulary: the words to look for.
            part_ids: indices of the parts wanted, in the order wanted; None for all. Only these are decoded.
            background: also give the background's logits, if the model has ``background_class``.
            keep_attention: return the cost volume before and after aggregation, the class attention between the wanted
                parts, and the attention maps of CLIP's image tower (160 MB in the released size).

        Returns:
            One :class:`PartScores` per image, at four times the resolution of the cost volume; with ``sliding_window``
            at the square the crops come from.

        Raises:
            ValueError: no image, an image of another kind, or part ids that do not exist or repeat.
        """
        wanted = checked_part_ids(part_ids, vocabulary)
        text = self.encode_texts(vocabulary.parts)
        if not self.background_class:
            text, background = text[:-1], False
        channels = [*wanted, len(vocabulary.parts)] if background else list(wanted)
        if self.sliding_window:
            results = [self._slide(image, text, channels, keep_attention) for image in images]
        else:
            results = self._score_whole(images, text, channels, keep_attention)
        for scores in results:
            scores.part_ids = wanted
            if background:
                scores.logits, scores.background = scores.logits[:-1], scores.logits[-1]
            if scores.cost is not None:
                names = tuple(vocabulary.parts[part] for part in wanted)
                classes = (*vocabulary.parts, BACKGROUND) if self.background_class else tuple(vocabulary.parts)
                scores.cost = _first_queries(scores.cost, names, classes)
                scores.attention.queries = names
        return results

    def _score_whole(
        self, images: Sequence[Tensor], text: Tensor, channels: list[int], keep_attention: bool
    ) -> list[PartScores]:
        """Scores of whole pictures; channels as in ``channels``, the part ids still to be filled in."""
        inputs = square_inputs(images, self.size.inputs, self.size.guidance.image_size, self.device, test=True)
        dense, maps = self.encode_images(inputs, keep_attention=keep_attention)
        kept: dict[int, Tensor] | None = {} if keep_attention else None
        logits = self._logits(dense.features, maps, text, self.pooling, channels, kept)
        results = []
        for number, (image, covered) in enumerate(zip(images, inputs.covered, strict=True)):
            size = tuple(image.shape[-2:])
            scores = PartScores(logits[number], (), None, size, resized_as="probabilities")
            if self.padding == "cut" and covered != size:
                scores.covered_size = covered
            if kept is not None:
                scores.cost, scores.attention = _inspected(number, dense, text, logits, channels, kept)
            results.append(scores)
        return results

    def _slide(self, image: Tensor, text: Tensor, channels: list[int], keep_attention: bool) -> PartScores:
        """Scores of one picture from crops and the whole; cost and attention maps are those of the whole picture."""
        inputs = sliding_inputs(image, self.size.inputs, self.size.guidance.image_size, self.device, self.window)
        dense, maps = self.encode_images(inputs, keep_attention=keep_attention)
        kept: dict[int, Tensor] | None = {} if keep_attention else None
        logits = self._logits(dense.features, maps, text, self.pooling, channels, kept)
        fused = self.window.fuse(squash(logits, self.window.crop).sigmoid())
        # As logits, like all scores; evaluation turns them back into the probabilities that were averaged.
        logit = torch.logit(fused, eps=1e-7)
        scores = PartScores(logit, (), None, tuple(image.shape[-2:]), resized_as="probabilities")
        if kept is not None:
            scores.cost, scores.attention = _inspected(-1, dense, text, logits, channels, kept)
        return scores

    def _logits(
        self,
        features: Tensor,
        guidance_maps: list[Tensor] | None,
        text: Tensor,
        pooling: int,
        channels: list[int] | None = None,
        attention: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Logits (b, n, 4 gh, 4 gw) of the texts in ``channels``, or of all, from features (b, d, gh, gw)."""
        chunks = self.chunks
        guidance, finer = None, [None] * len(self.decoder.stages)
        if self.appearance is not None:
            guidance, finer = self.appearance(guidance_maps)
        text_guidance = None if self.text_guidance is None else self.text_guidance(text)
        tokens = len(features) * features.shape[2] * features.shape[3]
        cost = chunks.over(lambda part: self.embedding(cost_volume(features, part[0])), text[None], tokens=tokens)
        cost = aggregate(
            self.layers, cost, guidance, text_guidance, pooling=pooling, chunks=chunks, attention=attention
        )
        if channels is not None and channels != list(range(len(text))):
            cost = cost[:, channels]
        return self.decoder(cost, finer, chunks=chunks)


def _inspected(
    number: int, dense: DenseFeatures, text: Tensor, logits: Tensor, channels: list[int], kept: dict[int, Tensor]
) -> tuple[CostMaps, AttentionMaps]:
    """Cost and attention maps of one image of a batch, for all channels; the texts still to be filled in."""
    before = mean_cost(dense.features[number][None], text[channels])[0]
    classes = {layer: weights[number][channels] for layer, weights in kept.items()}
    clip = {block: maps[number] for block, maps in dense.hidden.attention.items()}
    cost = CostMaps(before=before, after=logits[number], class_attention=classes, queries=(), classes=())
    return cost, AttentionMaps(grid=dense.hidden.grid, decoder={}, clip=clip, queries=())


def _first_queries(cost: CostMaps, names: tuple[str, ...], classes: tuple[str, ...]) -> CostMaps:
    """Cost maps of the named texts, which come first; the background's are left out."""
    count = len(names)
    attention = {layer: weights[:count] for layer, weights in cost.class_attention.items()}
    return CostMaps(cost.before[:count], cost.after[:count], attention, names, classes)

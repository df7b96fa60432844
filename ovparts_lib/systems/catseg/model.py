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
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ovparts_lib.models.backbones.guidance import GuidanceSize
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
from ovparts_lib.systems.base import batch_labels, chosen_queries
from ovparts_lib.systems.catseg.base import BACKGROUND_WEIGHT, SHARED_GROUPS, CostSegmenter
from ovparts_lib.systems.scores import BACKGROUND, AttentionMaps, CostMaps, Maps, Scores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

TRAINABLE_GROUPS = {
    "aggregator": ("appearance.", "text_guidance.", "embedding.", "layers.", "decoder."),
    **SHARED_GROUPS,
}
RELEASED_GROUPS = ("guidance", "aggregator")
# CAT-Seg's rates. OV-PARTS' code has none for CLIP: fine-tuned there, CLIP would learn at the full rate.
LR_MULTIPLIERS = {"guidance": 0.01, "clip_attention": 0.01, "clip_visual": 0.01}
PADDING = ("cut", "stretched")
TestEdge = int | None | Literal["as_trained"]


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

    def read_as(self, templates: str | None = None, test_shortest_edge: TestEdge = "as_trained") -> Self:
        """The size with what no tensor of a file tells.

        Args:
            templates: key of :data:`models.clip.prompts.TEMPLATES`; None keeps the size's.
            test_shortest_edge: shorter side that test images get, pixels; None for their own size, and ``as_trained``
                keeps the size's.
        """
        edge = self.inputs.shortest_edge if test_shortest_edge == "as_trained" else test_shortest_edge
        templates = templates or self.templates
        return replace(
            self,
            inputs=replace(self.inputs, shortest_edge=edge),
            aggregator=replace(self.aggregator, prompts=len(TEMPLATES[templates])),
            templates=templates,
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


SIZES = {
    "released": RELEASED,
    "released_dinov2": RELEASED_DINOV2,
    "released_unguided": without_guidance(RELEASED),
    "miniature": MINIATURE_CATSEG,
    "miniature_unguided": without_guidance(MINIATURE_CATSEG),
}


class Catseg(CostSegmenter):
    """CATSeg for object-specific parts, or any classes. See the module's docstring.

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

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch: weighted binary cross-entropy over parts and background.

        A pixel without a part of the vocabulary, inside an object or not, is background, or without
        ``background_class`` negative for every part.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized and cropped already), ``part_maps`` (list of integer
                (H, W), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are used in
                messages.

        Returns:
            ``{"loss_sem_seg": scalar}``, float32.

        Raises:
            ValueError: a label is neither a part of the vocabulary nor its ignore label; the message names the image.
        """
        vocabulary, images = batch["vocabulary"], batch["images"]
        self.check_vocabulary(vocabulary)
        count = len(vocabulary.classes)
        inputs = square_inputs(images, self.size.inputs, self.size.guidance.image_size, self.device, test=False)
        stretched = [tuple(image.shape[-2:]) for image in images]
        covered = stretched if self.padding == "stretched" else inputs.covered
        targets = [labels.to(self.device) for labels in covered_labels(batch_labels(batch), images, covered, count)]
        if self.training_queries is not None and self.training_queries < count:
            chosen = chosen_queries(torch.cat([target.unique() for target in targets]), count, self.training_queries)
            targets = [torch.searchsorted(chosen, target) for target in targets]
        else:
            chosen = torch.arange(count + 1, device=self.device)
        # Without a background class its number stays behind in the targets, and no channel is positive there.
        text = self.encode_texts(vocabulary.classes)[chosen if self.background_class else chosen[:-1]]
        dense, maps = self.encode_images(inputs)
        logits = self._logits(dense.features, maps, text, self.size.aggregator.pooling)
        weight = self.background_weight if self.background_class else 1.0
        loss = part_segmentation_loss(logits, targets, weight, recompute=self.checkpoint_aggregator)
        return {"loss_sem_seg": loss}

    def score(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        class_ids: tuple[int, ...],
        background: bool,
        inspected: bool,
    ) -> list[tuple[Scores, Maps]]:
        """Logits at four times the resolution of the cost volume; with ``sliding_window`` at the crops' square.

        Every class of the vocabulary takes part in class attention, whatever is asked for. Maps: ``cost`` and the
        ``attention`` of CLIP's image tower; with ``sliding_window`` those of the whole picture.
        """
        text = self.encode_texts(vocabulary.classes)
        if not self.background_class:
            text, background = text[:-1], False
        channels = [*class_ids, len(vocabulary.classes)] if background else list(class_ids)
        # The crops of a picture are a batch of their own.
        batches = [[image] for image in images] if self.sliding_window else [images]
        return [
            pair
            for batch in batches
            for pair in self._score_batch(batch, vocabulary, text, class_ids, channels, background, inspected)
        ]

    def _score_batch(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        text: Tensor,
        class_ids: tuple[int, ...],
        channels: list[int],
        background: bool,
        inspected: bool,
    ) -> list[tuple[Scores, Maps]]:
        """Scores and maps of pictures as wholes, or of one picture from its crops and the whole, which comes last."""
        side = self.size.guidance.image_size
        if self.sliding_window:
            inputs = sliding_inputs(images[0], self.size.inputs, side, self.device, self.window)
        else:
            inputs = square_inputs(images, self.size.inputs, side, self.device, test=True)
        dense, guidance = self.encode_images(inputs, keep_attention=inspected)
        kept: dict[int, Tensor] | None = {} if inspected else None
        decoded = self._logits(dense.features, guidance, text, self.pooling, channels, kept)
        logits, first = decoded, 0
        if self.sliding_window:
            fused = self.window.fuse(squash(decoded, self.window.crop).sigmoid())
            # As logits, like all scores; evaluation turns them back into the probabilities that were averaged.
            logits, first = torch.logit(fused, eps=1e-7)[None], len(decoded) - 1
        count, results = len(class_ids), []
        for number, (image, covered) in enumerate(zip(images, inputs.covered, strict=True)):
            size, maps = tuple(image.shape[-2:]), {}
            last = logits[number, -1] if background else None
            scores = Scores(logits[number, :count], class_ids, last, size, resized_as="probabilities")
            if self.padding == "cut" and covered != size:
                scores.covered_size = covered
            if kept is not None:
                view, names = first + number, tuple(vocabulary.classes[each] for each in class_ids)
                maps["cost"] = CostMaps(
                    before=mean_cost(dense.features[view][None], text[list(class_ids)])[0],
                    after=decoded[view, :count],
                    class_attention={layer: weights[view][list(class_ids)] for layer, weights in kept.items()},
                    queries=names,
                    classes=(*vocabulary.classes, BACKGROUND) if self.background_class else vocabulary.classes,
                )
                clip = {block: weights[view] for block, weights in dense.hidden.attention.items()}
                maps["attention"] = AttentionMaps(dense.hidden.grid, {}, clip, names)
            results.append((scores, maps))
        return results

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
        # feature and text guidance
        guidance, finer = None, [None] * len(self.decoder.stages)
        if self.appearance is not None:
            guidance, finer = self.appearance(guidance_maps)
        text_guidance = None if self.text_guidance is None else self.text_guidance(text)
        # cost computation and embedding
        tokens = len(features) * features.shape[2] * features.shape[3]
        cost = chunks.over(lambda part: self.embedding(cost_volume(features, part[0])), text[None], tokens=tokens)
        # spatial and class cost aggregation
        cost = aggregate(
            self.layers, cost, guidance, text_guidance, pooling=pooling, chunks=chunks, attention=attention
        )
        # upsampling decoder
        if channels is not None and channels != list(range(len(text))):
            cost = cost[:, channels]
        return self.decoder(cost, finer, chunks=chunks)

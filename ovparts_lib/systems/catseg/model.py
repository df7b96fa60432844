"""CATSeg: cost aggregation over object-specific part names, a baseline of OV-PARTS.

Dense CLIP features and every part name, in every prompt template, give a volume of cosines; layers of spatial and class
attention refine it, guided by a second image backbone, and a decoder turns it into one logit map per part and one for
the background, whose text embedding is a parameter.
Sources: Cho et al., "CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation", CVPR 2024 (first release of
its code); Wei et al., "OV-PARTS", NeurIPS 2023 (B+D fine-tuning); and the DINOv2 variant released with PartCATSeg.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ovparts_lib.checked import checked_arguments
from ovparts_lib.models.cost_aggregation import AppearanceGuidance, TextGuidance, aggregate, cost_volume, mean_cost
from ovparts_lib.models.cost_aggregation.inputs import SlidingWindow, sliding_inputs, squash
from ovparts_lib.models.cost_aggregation.targets import covered_labels, part_segmentation_loss
from ovparts_lib.systems.base import batch_labels, chosen_queries
from ovparts_lib.systems.cost_segmenter import (
    MINIATURE_COST,
    RELEASED,
    RELEASED_DINOV2,
    RELEASED_GROUPS,
    SHARED_GROUPS,
    CostSegmenter,
    CostSize,
    without_guidance,
)
from ovparts_lib.systems.scores import BACKGROUND, CostMaps, Maps, Request, Scores

SIZES = {
    "released": RELEASED,
    "released_dinov2": RELEASED_DINOV2,
    "released_unguided": without_guidance(RELEASED),
    "miniature": MINIATURE_COST,
    "miniature_unguided": without_guidance(MINIATURE_COST),
}


class Catseg(CostSegmenter):
    """CATSeg for object-specific parts, or any classes. See the module's docstring.

    Args:
        size: hyper-parameters, ``RELEASED``, ``RELEASED_DINOV2`` or ``MINIATURE_COST``.
        background_class: whether the background is one of the classes, as in all experiments on parts. False is
            upstream CAT-Seg, which has no text for it: unlabelled pixels are then negative for every class, and the
            scores have no background.
        sliding_window: score overlapping crops and the whole picture, as CAT-Seg was evaluated on scenes; otherwise the
            whole picture only, as in all experiments on parts.
        window: how the crops are cut.
        pooling: in :meth:`predict`, positions averaged along each axis before class attention; None for 1 with a
            sliding window, as CAT-Seg was evaluated on scenes, and otherwise the size's, with which the model trains.
        **shared: those of :class:`CostSegmenter`.

    Raises:
        ValueError: an option out of its range.
    """

    groups: ClassVar = {
        "aggregator": ("appearance.", "text_guidance.", "embedding.", "layers.", "decoder."),
        **SHARED_GROUPS,
    }

    @checked_arguments
    def __init__(
        self,
        size: CostSize = RELEASED,
        *,
        background_class: bool = True,
        sliding_window: bool = False,
        window: SlidingWindow | None = None,
        pooling: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(size, **shared)
        self.background_class, self.sliding_window = background_class, sliding_window
        self.window = window or SlidingWindow.around(size.inputs.image_size)
        usual = 1 if sliding_window else size.aggregator.pooling
        self.pooling = usual if pooling is None else pooling
        grid = size.inputs.image_size // size.clip.patch_size
        if self.pooling < 1 or grid % self.pooling:
            raise ValueError(f"pooling must divide the {grid} patches of a side, not {self.pooling}")
        self.appearance = AppearanceGuidance(size.aggregator, () if self.guidance is None else self.guidance.channels)
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
        inputs = self._squares(images, test=False)
        labels = covered_labels(batch_labels(batch), images, inputs.covered, count)
        targets = [target.to(self.device) for target in labels]
        chosen = chosen_queries(torch.cat([target.unique() for target in targets]), count, self.training_queries)
        targets = [torch.searchsorted(chosen, target) for target in targets]
        # Without a background class its number stays behind in the targets, and no channel is positive there.
        text = self.encode_texts(vocabulary.classes)[chosen if self.background_class else chosen[:-1]]
        dense, maps = self.encode_images(inputs)
        logits = self._logits(dense.features, maps, text, self.size.aggregator.pooling)
        weight = self.background_weight if self.background_class else 1.0
        loss = part_segmentation_loss(logits, targets, weight, recompute=self.checkpoint_aggregator)
        return {"loss_sem_seg": loss}

    def score(self, images: Sequence[Tensor], request: Request) -> list[tuple[Scores, Maps]]:
        """Logits at four times the resolution of the cost volume; with ``sliding_window`` at the crops' square.

        Every class of the vocabulary takes part in class attention, whatever is asked for. Maps: ``cost`` and the
        ``attention`` of CLIP's image tower; with ``sliding_window`` those of the whole picture.
        """
        text = self.encode_texts(request.vocabulary.classes)
        if not self.background_class:
            text, request = text[:-1], replace(request, background=False)
        # The crops of a picture are a batch of their own.
        batches = [[image] for image in images] if self.sliding_window else [images]
        return [pair for batch in batches for pair in self._score_batch(batch, text, request)]

    def _score_batch(self, images: Sequence[Tensor], text: Tensor, request: Request) -> list[tuple[Scores, Maps]]:
        """Scores and maps of pictures as wholes, or of one picture from its crops and the whole, which comes last."""
        classes, chosen = request.vocabulary.classes, list(request.class_ids)
        channels = [*chosen, len(classes)] if request.background else chosen
        if self.sliding_window:
            side = self.size.guidance.image_size
            inputs = sliding_inputs(images[0], self.size.inputs, side, self.device, self.window)
        else:
            inputs = self._squares(images, test=True)
        dense, guidance = self.encode_images(inputs, keep_attention=request.inspected)
        kept: dict[int, Tensor] | None = {} if request.inspected else None
        decoded = self._logits(dense.features, guidance, text, self.pooling, channels, kept)
        logits, first = decoded, 0
        if self.sliding_window:
            fused = self.window.fuse(squash(decoded, self.window.crop).sigmoid())
            # As logits, like all scores; evaluation turns them back into the probabilities that were averaged.
            logits, first = torch.logit(fused, eps=1e-7)[None], len(decoded) - 1
        results = []
        for number, (image, covered) in enumerate(zip(images, inputs.covered, strict=True)):
            scores, maps = self._picture_scores(image, covered, logits[number], request), {}
            if kept is not None:
                view, names = first + number, tuple(classes[each] for each in chosen)
                maps["cost"] = CostMaps(
                    before=mean_cost(dense.features[view][None], text[chosen])[0],
                    after=decoded[view, : len(chosen)],
                    class_attention={layer: weights[view][chosen] for layer, weights in kept.items()},
                    queries=names,
                    classes=(*classes, BACKGROUND) if self.background_class else classes,
                )
                maps["attention"] = self._clip_attention(dense, view, names)
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
        guidance = self.appearance(guidance_maps)
        text_guidance = None if self.text_guidance is None else self.text_guidance(text)
        # cost computation and embedding
        tokens = len(features) * features.shape[2] * features.shape[3]
        cost = chunks.over(lambda part: self.embedding(cost_volume(features, part[0])), text[None], tokens=tokens)
        # spatial and class cost aggregation
        settings = {"pooling": pooling, "chunks": chunks, "attention": attention}
        cost = aggregate(self.layers, cost, guidance.aggregator, text_guidance, **settings)
        # upsampling decoder
        if channels is not None and channels != list(range(len(text))):
            cost = cost[:, channels]
        return self.decoder(cost, guidance.decoder, chunks=chunks)

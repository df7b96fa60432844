"""PartCATSeg: object-aware, part-level cost aggregation.

Dense CLIP features are compared with the texts of generic parts and of objects; the aggregated costs of an
object-specific part's generic part and object are joined, compared with its own text, and aggregated again. DINOv2
guides both stages. A compositional loss asks that the parts of an object together get the share the object gets.
Source: Choi et al., "Fine-Grained Image-Text Correspondence with Cost Aggregation for Open-Vocabulary Part
Segmentation", CVPR 2025, and the code released with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ovparts_lib.models.clip import MINIATURE, VIT_B_16, ClipSize, build_clip
from ovparts_lib.models.clip_dense import DenseFeatures, dense_image_features
from ovparts_lib.models.cost_aggregation import AggregatorSize, Chunks, mean_cost
from ovparts_lib.models.cost_inputs import InputSize, SquareInputs, square_inputs
from ovparts_lib.models.cost_training import choose_trainable, grouped_parameters
from ovparts_lib.models.guidance import GuidanceSize, build_guidance
from ovparts_lib.models.partcatseg_aggregator import ImageGuidance, PartAggregator, PartTexts
from ovparts_lib.models.clipseg_base import checked_part_ids
from ovparts_lib.models.partcatseg_losses import Divergence, compositional_loss, segmentation_losses
from ovparts_lib.models.partcatseg_targets import batch_targets
from ovparts_lib.models.prompted_names import PromptedNames
from ovparts_lib.models.scores import AttentionMaps, CostMaps, PartScores
from ovparts_lib.models.templates import TEMPLATES
from ovparts_lib.vocabularies.vocabulary import Vocabulary

# Beginnings of parameter names. "clip_attention" is CAT-Seg's way of fine-tuning CLIP.
TRAINABLE_GROUPS = {
    "aggregator": ("aggregator.",),
    "guidance": ("guidance.",),
    "clip_attention": (
        "clip.visual.positional_embedding",
        *(f"clip.visual.transformer.resblocks.{block}.attn." for block in range(48)),
    ),
    "clip_visual": ("clip.visual.",),
    "background_text": ("background_text",),
}
RELEASED_GROUPS = ("aggregator", "guidance")
LR_MULTIPLIERS = {"guidance": 0.01, "clip_attention": 0.01, "clip_visual": 0.01}
PADDINGS = ("crop", "stretch")


@dataclass(frozen=True)
class PartCatsegSize:
    """Hyper-parameters of PartCATSeg.

    Attributes:
        clip: the CLIP underneath.
        aggregator: of both stages.
        guidance: the second image backbone.
        inputs: how pictures become squares.
        templates: name of the prompt templates, see :data:`models.templates.TEMPLATES`.
        lr_multipliers: learning rate of trainable groups relative to the base rate; 1 for a group that is not there.
    """

    clip: ClipSize
    aggregator: AggregatorSize = field(default_factory=lambda: AggregatorSize(class_attention="query"))
    guidance: GuidanceSize = field(default_factory=lambda: GuidanceSize("dinov2_vits14", 448))
    inputs: InputSize = field(default_factory=lambda: InputSize(guidance_size=448))
    templates: str = "imagenet"
    lr_multipliers: Mapping[str, float] = field(default_factory=lambda: dict(LR_MULTIPLIERS))


RELEASED = PartCatsegSize(VIT_B_16)


class PartCatseg(nn.Module):
    """PartCATSeg for object-specific parts. See the module's docstring.

    Args:
        size: hyper-parameters, ``RELEASED`` or ``MINIATURE_PARTCATSEG``.
        compositional_weight: factor of the compositional loss; 0 leaves it out.
        divergence: of the compositional loss: ``jensen_shannon`` as released, ``symmetric_kl`` as in the paper's text.
        padding: what becomes of the padding that makes sides multiples of 32: ``crop`` cuts it off the maps;
            ``stretch``, as released, takes the maps, padding and all, for maps of the picture, which displaces them by
            up to 31 pixels at the right and below. Published numbers were measured so.
        chunk_tokens: positions times classes computed at once where classes, or positions, are independent; bounds
            memory and changes no result. None chooses by device.
        recompute: in training, keep no activations of aggregator and losses but compute them a second time in the
            backward pass, chunk by chunk.
    """

    def __init__(
        self,
        size: PartCatsegSize = RELEASED,
        *,
        compositional_weight: float = 1.0,
        divergence: Divergence = "jensen_shannon",
        padding: Literal["crop", "stretch"] = "crop",
        chunk_tokens: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if padding not in PADDINGS:
            raise ValueError(f"padding must be {' or '.join(PADDINGS)}, not {padding!r}")
        self.size = size
        self.compositional_weight, self.divergence, self.padding = compositional_weight, divergence, padding
        self.chunk_tokens, self.recompute = chunk_tokens, recompute
        self.clip = build_clip(size.clip, quick_gelu=True)
        self.guidance = build_guidance(size.guidance, size.clip.vision_width)
        self.aggregator = PartAggregator(size.aggregator, self.guidance.channels if self.guidance else ())
        # As released, the background's text is drawn once and stays: it is in no loss's gradient.
        embed_dim = size.clip.embed_dim
        self.background_text = nn.Parameter(torch.randn(1, embed_dim) * embed_dim**-0.5)
        self.names = PromptedNames()
        self.set_trainable(RELEASED_GROUPS)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.background_text.device

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """Choose what trains; everything else is frozen.

        Args:
            groups: of ``TRAINABLE_GROUPS``. ``RELEASED_GROUPS`` is what the released models were trained with.

        Returns:
            Names of the parameters that train.

        Raises:
            ValueError: no such group.
        """
        return choose_trainable(self, TRAINABLE_GROUPS, groups)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: norms without decay; backbones at their own share of the learning rate."""
        return grouped_parameters(self, weight_decay, self.size.lr_multipliers)

    def encode_vocabulary(self, vocabulary: Vocabulary) -> PartTexts:
        """Texts of generic parts, objects that have parts and object-specific parts, and the background's.

        Names are encoded once per vocabulary and state of the text tower; a name without ``'s`` is its own object and
        its own generic part.
        """
        generic = (*vocabulary.generic_parts, *vocabulary.objects_with_parts)
        texts = self.names.encode(self.clip, (*generic, *vocabulary.parts), TEMPLATES[self.size.templates])
        background = nn.functional.normalize(self.background_text.float(), dim=-1)
        background = background.expand(1, texts.shape[1], -1)
        ranks = vocabulary.object_to_object_with_parts
        return PartTexts(
            generic=torch.cat([texts[: len(generic)], background]),
            specific=torch.cat([texts[len(generic) :], background]),
            part_to_generic=vocabulary.part_to_generic,
            part_to_object=tuple(ranks[owner] for owner in vocabulary.part_to_object),
            generic_count=len(vocabulary.generic_parts),
        )

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training losses of a batch; their sum is minimised.

        Args:
            batch: ``images`` (list of uint8 (3, h, w)), ``part_maps`` and ``object_maps`` (lists of int64 (H, W), ids
                of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are used in messages.

        Returns:
            Those of :func:`models.partcatseg_losses.segmentation_losses`, and ``loss_compositional`` unless its weight
            is 0. Scalars, float32.

        Raises:
            ValueError: see :func:`models.partcatseg_targets.batch_targets`.
        """
        inputs = square_inputs(batch["images"], self.size.inputs, self.device, test=False)
        targets = batch_targets(batch, inputs.covered if self.padding == "crop" else None, self.device)
        chunks, texts = self._chunks(), self.encode_vocabulary(batch["vocabulary"])
        dense, guidance = self._encode_images(inputs)
        first = self.aggregator.first_stage(dense.features, texts, guidance, chunks)
        aware = self.aggregator.object_aware_features(first, texts)
        second = self.aggregator.second_stage(aware, texts, guidance, chunks)
        losses = segmentation_losses(
            self.aggregator.decode(first, guidance, chunks),
            self.aggregator.decode(second, guidance, chunks),
            targets,
            texts.part_to_generic,
            texts.generic_count,
            recompute=self.recompute,
        )
        if self.compositional_weight:
            object_cost = mean_cost(dense.features, texts.generic[texts.generic_count :])
            specific_cost = self.aggregator.specific_cost(aware, texts, chunks)
            distance = compositional_loss(object_cost, specific_cost, texts.part_to_object, self.divergence)
            losses["loss_compositional"] = self.compositional_weight * distance
        return losses

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
        """Score the parts of a vocabulary on images; nothing but pictures and words is needed.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ.
            vocabulary: the words to look for. All of them take part in the class attention, whatever is asked for.
            part_ids: indices of the parts wanted, in the order wanted; None for all. Only these are decoded.
            background: also give the background's logits.
            keep_attention: return cost maps, class attention of the second stage, and the image tower's attention.

        Returns:
            One :class:`PartScores` per image, logits at four times the resolution of CLIP's patches.

        Raises:
            ValueError: no images, an image of another kind, or part_ids that are not different parts.
        """
        wanted = checked_part_ids(part_ids, vocabulary)
        inputs = square_inputs(images, self.size.inputs, self.device, test=True)
        chunks, texts = self._chunks(), self.encode_vocabulary(vocabulary)
        dense, guidance = self._encode_images(inputs, keep_attention)
        attention = {} if keep_attention else None
        first = self.aggregator.first_stage(dense.features, texts, guidance, chunks)
        aware = self.aggregator.object_aware_features(first, texts)
        del first  # one map per generic part and object
        second = self.aggregator.second_stage(aware, texts, guidance, chunks, attention)
        channels = [*wanted, len(vocabulary.parts)] if background else list(wanted)
        logits = self.aggregator.decode(second[:, channels], guidance, chunks)
        cost = self.aggregator.specific_cost(aware, texts, chunks) if keep_attention else None
        queries = tuple(vocabulary.parts[part] for part in wanted)
        scores = []
        for number, image in enumerate(images):
            scores.append(
                PartScores(
                    logits=logits[number, : len(wanted)],
                    part_ids=wanted,
                    background=logits[number, -1] if background else None,
                    image_size=tuple(image.shape[-2:]),
                    covered_size=inputs.covered[number] if self.padding == "crop" else None,
                )
            )
            if keep_attention:
                rows = torch.tensor(wanted, device=self.device)
                among = {layer: weights[number][rows][:, rows] for layer, weights in attention.items()}
                scores[-1].cost = CostMaps(cost[number, rows], scores[-1].logits, among, queries)
                maps = {block: weights[number] for block, weights in dense.hidden.attention.items()}
                scores[-1].attention = AttentionMaps(dense.hidden.grid, {}, maps, queries)
        return scores

    def _chunks(self) -> Chunks:
        return Chunks(self.chunk_tokens or (1 << 17 if self.device.type == "cuda" else 1 << 13), self.recompute)

    def _encode_images(
        self, inputs: SquareInputs, keep_attention: bool = False
    ) -> tuple[DenseFeatures, ImageGuidance]:
        """Dense CLIP features, and the projected features of the guidance backbone."""
        size, visual = self.size, self.clip.visual
        layers = () if size.guidance.clip_layer is None else (size.guidance.clip_layer,)
        maps = range(1, size.clip.vision_layers) if keep_attention else ()
        with _without_gradient_unless(any(parameter.requires_grad for parameter in visual.parameters())):
            dense = dense_image_features(visual, inputs.clip, layers=layers, keep_attention=maps)
        features = ()
        if self.guidance is not None:
            tokens = dense.hidden.states[layers[0]] if layers else None
            features = self.guidance(inputs.guidance, dense.hidden.grid, tokens)
        return dense, self.aggregator.guide(features)


def _without_gradient_unless(trains: bool) -> AbstractContextManager:
    return nullcontext() if trains else torch.no_grad()

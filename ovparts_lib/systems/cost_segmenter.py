"""What CATSeg and PartCATSeg share: sizes, CLIP's towers, guidance backbone, background text, and what trains."""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Literal, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ovparts_lib.checked import checked_arguments, hyper_parameters
from ovparts_lib.models.backbones.guidance import GuidanceSize, build_guidance
from ovparts_lib.models.clip.dense import DenseFeatures, dense_image_features
from ovparts_lib.models.clip.prompted_names import SYNONYMS
from ovparts_lib.models.clip.prompts import TEMPLATES, checked_templates
from ovparts_lib.models.clip.text_cache import TextCache
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, ClipSize, build_clip
from ovparts_lib.models.cost_aggregation import AggregatorSize, Chunks
from ovparts_lib.models.cost_aggregation.inputs import InputSize, SquareInputs, square_inputs
from ovparts_lib.systems.base import SegmentationSystem
from ovparts_lib.systems.scores import AttentionMaps, Request, Scores
from ovparts_lib.systems.shared_options import Padding
from ovparts_lib.vocabularies import Vocabulary

# Beginnings of parameter names. "clip_attention" is CAT-Seg's way of fine-tuning CLIP: its image tower's attention and
# position embedding; "clip_visual" is all of that tower.
SHARED_GROUPS = {
    "guidance": ("guidance.",),
    "clip_attention": (
        "clip.visual.positional_embedding",
        *(f"clip.visual.transformer.resblocks.{block}.attn." for block in range(48)),
    ),
    "clip_visual": ("clip.visual.",),
    "background_text": ("background_text",),
}
RELEASED_GROUPS = ("guidance", "aggregator")
# CAT-Seg's rates. OV-PARTS' code has none for CLIP: fine-tuned there, CLIP would learn at the full rate.
LR_MULTIPLIERS = {"guidance": 0.01, "clip_attention": 0.01, "clip_visual": 0.01}
TestEdge = int | None | Literal["as_trained"]
_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 17}


@hyper_parameters
class CostSize:
    """Hyper-parameters of CATSeg and its successors.

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
        wanted, given = len(checked_templates(self.templates)), self.aggregator.prompts
        if wanted != given:
            raise ValueError(f"templates {self.templates!r} are {wanted}, but the aggregator has {given} prompts")
        if self.aggregator.text_dim != self.clip.embed_dim:
            raise ValueError(f"text_dim {self.aggregator.text_dim} is not CLIP's embed_dim {self.clip.embed_dim}")
        side, patch, window = self.inputs.image_size, self.clip.patch_size, self.aggregator.window
        if side % patch or (side // patch) % window:
            raise ValueError(f"image_size {side} must give patches of {patch} pixels in windows of {window} patches")
        layer = self.guidance.clip_layer
        if layer is not None and not 0 <= layer < self.clip.vision_layers:
            raise ValueError(f"clip_layer {layer} is not before the last block, 0 to {self.clip.vision_layers - 1}")
        guided = self.aggregator.guidance_dim or any(self.aggregator.decoder_guidance_dims)
        if bool(guided) != (self.guidance.kind != "none"):
            raise ValueError("guidance backbone and guidance dims of the aggregator go together: give both or neither")

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
            aggregator=replace(self.aggregator, prompts=len(checked_templates(templates))),
            templates=templates,
        )


RELEASED = CostSize()
RELEASED_DINOV2 = CostSize(guidance=GuidanceSize("dinov2_vits14", 448))
MINIATURE_COST = CostSize(
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


def without_guidance(size: CostSize) -> CostSize:
    """The same model without image guidance, for comparison: no backbone, and nothing of it in the aggregator."""
    none = replace(size.aggregator, guidance_dim=0, decoder_guidance_dims=(0,) * len(size.aggregator.decoder_dims))
    return replace(size, guidance=GuidanceSize("none"), aggregator=none)


class CostSegmenter(SegmentationSystem):
    """CLIP, a guidance backbone, and the text embedding of the background; no loss and no prediction.

    CLIP is frozen unless its groups are chosen.

    The parameters in ``RELEASED_GROUPS`` train from the start; :meth:`set_trainable` changes that.

    Args:
        size: hyper-parameters; each prompt template is a channel of the cost volume.
        training_queries: in training, score only this many parts a step: those that occur in the batch, and others
            drawn at random with torch's generator. None scores all parts of the vocabulary, as published.
        background_weight: weight of the background's terms in the loss; the others weigh 1. 0.05 as released for
            CATSeg and PartCATSeg alike, which give no reason; most pixels are background, and would outweigh the parts.
        padding: pictures are padded before they are squashed. ``"cut"`` says in the scores how far the maps reach
            beyond the picture, and in training the padding is background; ``"stretched"``, as released, takes them for
            maps of the picture alone.
        chunk_tokens: positions x classes x images computed at once; bounds memory and changes no result. None chooses
            by device.
        checkpoint_aggregator: in training, keep no activations of aggregator, decoder and losses, but compute them a
            second time in the backward pass, a few classes at a time.
        lr_multipliers: factors of the learning rate by trainable group; 1 for groups that are not named.

    Raises:
        ValueError: an option out of its range.
    """

    @checked_arguments
    def __init__(
        self,
        size: CostSize,
        *,
        training_queries: PositiveInt | None = None,
        background_weight: float = 0.05,
        padding: Padding = "cut",
        chunk_tokens: PositiveInt | None = None,
        checkpoint_aggregator: bool = False,
        lr_multipliers: Mapping[str, float] = LR_MULTIPLIERS,
    ) -> None:
        super().__init__()
        self.set_rates(lr_multipliers)
        clip = size.clip
        self.size, self.templates, self.padding = size, TEMPLATES[size.templates], padding
        self.training_queries, self.background_weight = training_queries, background_weight
        self.chunk_tokens, self.checkpoint_aggregator = chunk_tokens, checkpoint_aggregator
        self.clip = build_clip(clip, quick_gelu=True)
        self.guidance = build_guidance(size.guidance, clip.vision_width)
        self.background_text = nn.Parameter(torch.randn(1, clip.embed_dim) * clip.embed_dim**-0.5)
        self.text_cache = TextCache()

    @property
    def chunks(self) -> Chunks:
        """How much aggregator and decoder compute at once."""
        return Chunks(self.chunk_tokens or _TOKENS.get(self.device.type, 1 << 13), self.checkpoint_aggregator)

    def texts_of(self, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
        """The synonyms of each class, whose embeddings are averaged: "a, b" and "b, a" are one to CAT-Seg."""
        return [tuple(sorted({word.lower() for word in name.split(SYNONYMS)})) for name in vocabulary.classes]

    def encode_texts(self, names: Sequence[str]) -> Tensor:
        """Text embeddings of names in all templates, and of the background as the last one.

        Returns:
            float32 (names + 1, templates, embed_dim), normalised; the names' from a cache and without gradient.
        """
        text = self.text_cache.encode(self.clip, names, self.templates)
        background = nn.functional.normalize(self.background_text.float(), dim=-1)
        return torch.cat([text, background.expand(1, len(self.templates), -1)])

    def encode_images(
        self, inputs: SquareInputs, *, keep_attention: bool = False
    ) -> tuple[DenseFeatures, list[Tensor] | None]:
        """Dense CLIP features, and the guidance backbone's maps, coarse to fine; None without backbone.

        Args:
            inputs: both squares, (b, 3, s, s) and (b, 3, g, g).
            keep_attention: keep the attention maps of all blocks of CLIP's image tower but the last, which has none.

        Returns:
            Features (b, embed_dim, h, w); maps (b, c, h, w), (b, c, 2h, 2w), (b, c, 4h, 4w).
        """
        visual, layer = self.clip.visual, self.size.guidance.clip_layer
        trains = any(parameter.requires_grad for parameter in visual.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            blocks = range(1, len(visual.transformer.resblocks)) if keep_attention else ()
            layers = () if layer is None else (layer,)
            dense = dense_image_features(visual, inputs.clip, layers=layers, keep_attention=blocks)
        if self.guidance is None:
            return dense, None
        return dense, self.guidance(inputs.guidance, dense.hidden.grid, dense.hidden.states.get(layer))

    def _squares(self, images: Sequence[Tensor], *, test: bool) -> SquareInputs:
        """Both squares of pictures; in training with ``stretched`` they are taken to span the pictures alone."""
        inputs = square_inputs(images, self.size.inputs, self.size.guidance.image_size, self.device, test=test)
        if self.padding == "stretched":
            inputs.covered = [tuple(image.shape[-2:]) for image in images]
        return inputs

    def _picture_scores(self, image: Tensor, covered: tuple[float, float], logits: Tensor, request: Request) -> Scores:
        """Scores of one picture from logits of the classes that are asked for and, last, of the background."""
        size, last = tuple(image.shape[-2:]), logits[-1] if request.background else None
        span, ids = None if covered == size else covered, request.class_ids
        return Scores(logits[: len(ids)], ids, last, size, covered_size=span, resized_as="probabilities")

    @staticmethod
    def _clip_attention(dense: DenseFeatures, view: int, queries: tuple[str, ...]) -> AttentionMaps:
        """Attention of CLIP's image tower to one of the squares."""
        clip = {block: weights[view] for block, weights in dense.hidden.attention.items()}
        return AttentionMaps(dense.hidden.grid, {}, clip, queries)

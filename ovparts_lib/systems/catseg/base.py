"""What CATSeg and PartCATSeg share: CLIP's towers, guidance backbone, background text, and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovparts_lib.models.backbones.guidance import GuidanceSize, build_guidance
from ovparts_lib.models.clip.dense import DenseFeatures, dense_image_features
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.text_cache import TextCache
from ovparts_lib.models.clip.towers import ClipSize, build_clip
from ovparts_lib.models.cost_aggregation import Chunks
from ovparts_lib.models.cost_aggregation.inputs import SquareInputs
from ovparts_lib.systems.base import SegmentationSystem

BACKGROUND_WEIGHT = 0.05
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
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)
_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 17}


class CostSegmenter(SegmentationSystem):
    """A frozen CLIP, a guidance backbone, and the text embedding of the background; no loss and no prediction.

    Args:
        clip: hyper-parameters of CLIP.
        guidance: which backbone guides.
        templates: key of :data:`models.clip.prompts.TEMPLATES`; each template is a channel of the cost volume.
        training_queries: number of parts in a training step; None for all.
        background_weight: weight of the background's terms in the loss; the others weigh 1.
        chunk_tokens: see :class:`Chunks`; None chooses by device.
        checkpoint_aggregator: in training, keep no activations of aggregator and decoder, but compute them a second
            time in the backward pass, a few classes at a time.
        lr_multipliers: factors of the learning rate by trainable group; 1 for groups that are not named.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        clip: ClipSize,
        guidance: GuidanceSize,
        templates: str,
        *,
        training_queries: int | None,
        background_weight: float,
        chunk_tokens: int | None,
        checkpoint_aggregator: bool,
        lr_multipliers: Mapping[str, float],
    ) -> None:
        super().__init__()
        for option, value in (("training_queries", training_queries), ("chunk_tokens", chunk_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, or None, not {value}")
        for group in lr_multipliers:
            self.beginnings(group)
        if guidance.clip_layer is not None and not 0 <= guidance.clip_layer < clip.vision_layers:
            raise ValueError(
                f"clip_layer {guidance.clip_layer} is no hidden state before the last block, 0 to "
                f"{clip.vision_layers - 1}"
            )
        self.templates = TEMPLATES[templates]
        self.guidance_size = guidance
        self.training_queries = training_queries
        self.background_weight = background_weight
        self.chunk_tokens = chunk_tokens
        self.checkpoint_aggregator = checkpoint_aggregator
        self.lr_multipliers = dict(lr_multipliers)
        self.clip = build_clip(clip, quick_gelu=True)
        self.guidance = build_guidance(guidance, clip.vision_width)
        self.background_text = nn.Parameter(torch.randn(1, clip.embed_dim) * clip.embed_dim**-0.5)
        self.text_cache = TextCache()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.background_text.device

    @property
    def chunks(self) -> Chunks:
        """How much aggregator and decoder compute at once."""
        return Chunks(self.chunk_tokens or _TOKENS.get(self.device.type, 1 << 13), self.checkpoint_aggregator)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: by ``lr_multiplier``; norms without weight decay, all else, biases too, with.

        A parameter in several trainable groups has the multiplier of the first of them in ``lr_multipliers``.
        """
        norms = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, _NORMS)
            for parameter in module.parameters(recurse=False)
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decay = 0.0 if id(parameter) in norms else weight_decay
                groups.setdefault((self._multiplier(name), decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "lr_multiplier": multiplier}
            for (multiplier, decay), parameters in groups.items()
        ]

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
            inputs: both squares.
            keep_attention: keep the attention maps of all blocks of CLIP's image tower but the last, which has none.
        """
        visual, layer = self.clip.visual, self.guidance_size.clip_layer
        trains = any(parameter.requires_grad for parameter in visual.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            blocks = range(1, len(visual.transformer.resblocks)) if keep_attention else ()
            layers = () if layer is None else (layer,)
            dense = dense_image_features(visual, inputs.clip, layers=layers, keep_attention=blocks)
        if self.guidance is None:
            return dense, None
        return dense, self.guidance(inputs.guidance, dense.hidden.grid, dense.hidden.states.get(layer))

    def _multiplier(self, name: str) -> float:
        for group, multiplier in self.lr_multipliers.items():
            if name.startswith(self.groups[group]):
                return multiplier
        return 1.0

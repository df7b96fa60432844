"""The aggregator: sizes, layers of spatial and class aggregation, and projections of image and text that guide it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.cost_aggregation.chunks import DEFAULT_CHUNKS, Chunks
from ovparts_lib.models.cost_aggregation.class_attention import ClassAggregation, ClassAttentionKind
from ovparts_lib.models.cost_aggregation.cost_volume import CostEmbedding
from ovparts_lib.models.cost_aggregation.decoder import GuidedDecoder
from ovparts_lib.models.cost_aggregation.spatial import SpatialAggregation


@hyper_parameters
class AggregatorSize:
    """Hyper-parameters of the blocks, with the released values.

    Attributes:
        prompts: templates, the channels of the cost volume.
        text_dim: width of text embeddings.
        dim: width of the embedded cost.
        layers: of spatial and class aggregation.
        heads: attention heads.
        window: side of the Swin windows.
        kernel: side of the kernel that embeds the cost.
        pooling: positions averaged along each axis before class attention.
        class_attention: ``linear`` (CATSeg), ``full`` or ``query`` (PartCATSeg).
        guidance_dim: width of the appearance guidance; 0 for none.
        text_guidance_dim: width of the text guidance; 0 for none.
        decoder_dims: widths of the decoder's stages; each doubles the resolution.
        decoder_guidance_dims: channels of image features that each stage is given; zeros for none.
    """

    prompts: int = 80
    text_dim: int = 512
    dim: int = 128
    layers: int = 2
    heads: int = 4
    window: int = 12
    kernel: int = 7
    pooling: int = 2
    class_attention: ClassAttentionKind = "linear"
    guidance_dim: int = 128
    text_guidance_dim: int = 128
    decoder_dims: tuple[int, ...] = (64, 32)
    decoder_guidance_dims: tuple[int, ...] = (32, 16)

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if len(self.decoder_dims) != len(self.decoder_guidance_dims):
            raise ValueError("decoder_dims and decoder_guidance_dims must be equally long, one entry for each stage")
        guided = zip((self.dim, *self.decoder_dims), self.decoder_guidance_dims, strict=False)
        if any(width <= guidance for width, guidance in guided):
            raise ValueError("a decoder stage must be wider than its guidance")

    def embedding(self) -> CostEmbedding:
        """A new :class:`CostEmbedding` of this size."""
        return CostEmbedding(self.prompts, self.dim, self.kernel)

    def layer_stack(self) -> nn.ModuleList:
        """New :class:`AggregatorLayer` modules of this size."""
        return nn.ModuleList(AggregatorLayer(self) for _ in range(self.layers))

    def decoder(self) -> GuidedDecoder:
        """A new :class:`GuidedDecoder` of this size."""
        return GuidedDecoder(self.dim, self.decoder_dims, self.decoder_guidance_dims)


class AggregatorLayer(nn.Module):
    """Spatial aggregation of each class, then class aggregation at each position.

    Args:
        size: of the aggregator.
    """

    def __init__(self, size: AggregatorSize) -> None:
        super().__init__()
        self.spatial = SpatialAggregation(size.dim, size.guidance_dim, size.heads, size.window)
        self.classes = ClassAggregation(size.dim, size.text_guidance_dim, size.heads, size.class_attention)

    def aggregate_space(self, x: Tensor, guidance: Tensor | None, chunks: Chunks = DEFAULT_CHUNKS) -> Tensor:
        """The spatial half: x (b, t, h, w, dim), appearance guidance (b, h, w, guidance_dim) -> as x."""
        guidance = self.spatial.normalised_guidance(guidance)
        return chunks.over(lambda part: self.spatial(part, guidance), x, tokens=len(x) * x.shape[2] * x.shape[3])


def aggregate(
    layers: Iterable[AggregatorLayer],
    x: Tensor,
    guidance: Tensor | None,
    text_guidance: Tensor | None,
    *,
    pooling: int = 2,
    chunks: Chunks = DEFAULT_CHUNKS,
    attention: dict[int, Tensor] | None = None,
) -> Tensor:
    """Run a stack of layers.

    Args:
        layers: in order.
        x: (b, t, h, w, dim).
        guidance: appearance, (b, h, w, guidance_dim); None for none.
        text_guidance: (t, text_guidance_dim); None for none.
        pooling: see :class:`ClassAggregation`.
        chunks: see :class:`Chunks`.
        attention: receives ``{layer: (b, t, t)}``, the mean class attention; None if not wanted.

    Returns:
        (b, t, h, w, dim).
    """
    for number, layer in enumerate(layers):
        x = layer.aggregate_space(x, guidance, chunks)
        if attention is not None:
            attention[number] = layer.classes.mean_weights(x, text_guidance, pooling=pooling)
        x = layer.classes(x, text_guidance, pooling=pooling, chunks=chunks)
    return x


class ImageGuidance(NamedTuple):
    """Projected image features; None where the model is built without.

    Attributes:
        aggregator: (b, h, w, guidance_dim).
        decoder: per stage of the decoder (b, dim, 2h, 2w), (b, dim, 4h, 4w), ….
    """

    aggregator: Tensor | None
    decoder: list[Tensor | None]


class AppearanceGuidance(nn.Module):
    """Image features, projected by 3x3 convolutions with ReLU, for the aggregator and for each decoder stage.

    Args:
        size: of the aggregator.
        channels: widths of the features, coarse to fine: one for the aggregator, one for each decoder stage; empty for
            a size without image guidance.
    """

    def __init__(self, size: AggregatorSize, channels: Sequence[int]) -> None:
        super().__init__()
        widths = (size.guidance_dim, *size.decoder_guidance_dims)
        self.aggregator, *finer = (
            nn.Conv2d(given, dim, 3, padding=1) if dim else nn.Identity()
            for given, dim in zip(channels or widths, widths, strict=True)
        )
        self.decoder = nn.ModuleList(finer)

    def forward(self, features: Sequence[Tensor] | None) -> ImageGuidance:
        """Project features (b, channels, h, w), coarse to fine, at h, 2h, 4h, …; None for none."""
        convs = [self.aggregator, *self.decoder]
        coarse, *finer = (
            F.relu(conv(maps)) if isinstance(conv, nn.Conv2d) else None
            for conv, maps in zip(convs, features or convs, strict=True)
        )
        return ImageGuidance(None if coarse is None else rearrange(coarse.float(), "b c h w -> b h w c"), finer)


class TextGuidance(nn.Linear):
    """The mean of a text's normalised prompts, normalised again, through a linear layer with ReLU.

    Args:
        size: of the aggregator; its ``text_guidance_dim`` must not be 0.
    """

    def __init__(self, size: AggregatorSize) -> None:
        super().__init__(size.text_dim, size.text_guidance_dim)

    def forward(self, text: Tensor) -> Tensor:
        """(t, p, text_dim), normalised -> (t, text_guidance_dim)."""
        with torch.autocast(text.device.type, enabled=False):
            text = F.normalize(text.float().mean(1), dim=-1)
        return F.relu(super().forward(text))

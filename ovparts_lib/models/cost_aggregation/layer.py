"""One layer of aggregation, spatial then among classes, and a stack of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ovparts_lib.models.cost_aggregation.chunks import DEFAULT_CHUNKS, Chunks
from ovparts_lib.models.cost_aggregation.class_attention import ClassAggregation, ClassAttentionKind
from ovparts_lib.models.cost_aggregation.spatial import SpatialAggregation


class AggregatorLayer(nn.Module):
    """Spatial aggregation of each class, then class aggregation at each position.

    Args:
        dim: width.
        guidance_dim: width of the appearance guidance; 0 for none.
        text_guidance_dim: width of the text guidance; 0 for none.
        heads: attention heads of both.
        window: side of the Swin windows.
        kind: of class attention.
    """

    def __init__(
        self,
        dim: int,
        guidance_dim: int,
        text_guidance_dim: int,
        heads: int,
        window: int,
        kind: ClassAttentionKind = "linear",
    ) -> None:
        super().__init__()
        self.spatial = SpatialAggregation(dim, guidance_dim, heads, window)
        self.classes = ClassAggregation(dim, text_guidance_dim, heads, kind)

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

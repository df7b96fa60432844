"""SIM: proposal embeddings are calibrated by what a frozen CLIP sees in the whole image (section 3.2 of the paper).

Kept as released, because the weights were trained with it: the spectrum is not shifted, so that the filter is a
low-pass; no activation between the two linear layers; no norm after the last attention; and an encoder in which every
query is a sequence of its own, so that queries do not see each other there.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.models.maskformer.transformer_decoder import attend
from ovparts_lib.systems.scan.sizes import ScanSize


@dataclass
class ImageContext:
    """What the frozen CLIP says of whole images.

    Attributes:
        memory: (b, blocks * grid^2, embed_dim), what SIM attends to.
        embedding: (b, embed_dim), not normalised.
        class_tokens: (b, width) after each block of CS.
    """

    memory: Tensor
    embedding: Tensor
    class_tokens: dict[int, Tensor]


class FrequencyModule(nn.Module):
    """Filters maps in the frequency domain and adds the result to them.

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(2 * channels, 2 * channels, 1) for _ in range(2))

    def forward(self, maps: Tensor, sigma: float) -> Tensor:
        """Maps (b, channels, h, w) -> the same shape; ``sigma`` is the width of the filter, in cells."""
        spectrum = torch.fft.fft2(maps.float()) * frequency_filter(*maps.shape[-2:], sigma, maps.device)
        mixed = self.conv2(self.conv1(torch.cat([spectrum.real, spectrum.imag], dim=1)).relu()).float()
        real, imaginary = mixed.chunk(2, dim=1)
        return maps + torch.fft.ifft2(torch.complex(real, imaginary)).real


def frequency_filter(height: int, width: int, sigma: float, device: torch.device | None = None) -> Tensor:
    """Factors (h, w) of an unshifted spectrum: 0 at the highest frequency, largest at the lowest."""
    rows = torch.arange(height, device=device) - height // 2
    columns = torch.arange(width, device=device) - width // 2
    return 1 - torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * sigma**2))


class ContextProjection(nn.Module):
    """Two linear layers from CLIP's width to that of its embeddings."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, embed_dim), nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, width) -> (…, embed_dim)."""
        return self.fc2(self.fc1(tokens))


class FusionDecoder(nn.Module):
    """Attention of the proposal embeddings to CLIP's patches, several times over."""

    def __init__(self, embed_dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.multiattn = nn.ModuleList(nn.MultiheadAttention(embed_dim, heads) for _ in range(layers))
        self.ln = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(layers - 1))

    def forward(self, embeddings: Tensor, memory: Tensor) -> Tensor:
        """Embeddings (b, q, d) with memory (b, k, d) -> (b, q, d)."""
        for number, attention in enumerate(self.multiattn):
            embeddings = embeddings + attend(attention, embeddings, memory, memory)
            if number < len(self.ln):
                embeddings = self.ln[number](embeddings)
        return embeddings


class SingleTokenLayer(nn.Module):
    """A post-norm transformer layer for sequences of one token: attention is its value projection."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        attention, width = self.self_attn, tokens.shape[-1]
        value = F.linear(tokens, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        if self.training and attention.dropout:
            # the one attention weight of each head is 1, and dropped like any
            weights = F.dropout(value.new_ones(*value.shape[:-1], attention.num_heads, 1), attention.dropout)
            value = (value.unflatten(-1, (attention.num_heads, -1)) * weights).flatten(-2)
        tokens = self.norm1(tokens + self.dropout(attention.out_proj(value)))
        hidden = self.linear2(self.dropout(self.linear1(tokens).relu()))
        return self.norm2(tokens + self.dropout(hidden))


class SemanticIntegration(nn.Module):
    """SIM. See the module's docstring.

    Args:
        size: hyper-parameters.
    """

    def __init__(self, size: ScanSize) -> None:
        super().__init__()
        embed_dim, layers = size.clip.embed_dim, size.fusion_layers
        self.sigmas = size.sigmas
        self.frequency = FrequencyModule(size.clip.vision_width)
        self.projection = ContextProjection(size.clip.vision_width, embed_dim)
        self.fusion = FusionDecoder(embed_dim, size.heads, layers)
        layer = SingleTokenLayer(embed_dim, size.heads, size.hidden, size.dropout)
        self.encoder = nn.ModuleList(copy.deepcopy(layer) for _ in range(layers))  # the layers start alike, as released
        self.class_token_weight = nn.Parameter(torch.tensor([0.1]))

    def memory(self, patches: Sequence[Tensor], grid: int) -> Tensor:
        """What embeddings attend to, (b, blocks * grid^2, embed_dim).

        Args:
            patches: of each block, (b, grid^2, clip_width).
            grid: patches along a side.
        """
        filtered = [
            rearrange(self.frequency(rearrange(block, "b (h w) c -> b c h w", h=grid), sigma), "b c h w -> b (h w) c")
            for block, sigma in zip(patches, self.sigmas, strict=True)
        ]
        return self.projection(torch.cat(filtered, dim=1))

    def forward(self, embeddings: Tensor, memory: Tensor, image_embedding: Tensor) -> Tensor:
        """Calibrated proposal embeddings.

        Args:
            embeddings: (b, q, embed_dim).
            memory: of :meth:`memory`.
            image_embedding: (b, embed_dim), CLIP's of the whole image.
        """
        embeddings = self.fusion(embeddings, memory)
        image = image_embedding / image_embedding.norm(dim=-1, keepdim=True)
        embeddings = embeddings + self.class_token_weight * image[:, None]
        for layer in self.encoder:
            embeddings = layer(embeddings)
        return embeddings

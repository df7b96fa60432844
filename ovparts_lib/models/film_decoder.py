"""The decoder of CLIPSeg: image activations, modulated by the text (FiLM), to one logit map per query.

Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022, section 3, and its released code.
A three-layer transformer, 64 channels wide, that runs once per image and query. What does not depend on the query (the
projections of the image activations) is computed once per image.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.clip.towers import ClipSize, self_attention

# A new head begins by calling every pixel negative with probability 0.99, as nearly all are; otherwise the first steps
# do nothing but learn that (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.3).
RARE = -math.log(99)


@hyper_parameters
class QuerySize:
    """Hyper-parameters of CLIPSeg and PartCLIPSeg.

    Attributes:
        clip: the CLIP underneath.
        image_size: side of the square every image is resized to.
        reduce_dim: width of the decoder.
        extract_layers: blocks of the image tower to read, counted from 0 as in the released configuration, so that
            layer i gives the tower's hidden state i + 1.
        decoder_heads: attention heads of the decoder.
        decoder_mlp: hidden width of the decoder's MLPs.
        refined: the head with a 3x3 convolution and two upsampling steps; False for the plain one of rd64 and rd16.
    """

    clip: ClipSize
    image_size: int = 352
    reduce_dim: int = 64
    extract_layers: tuple[int, ...] = (3, 6, 9)
    decoder_heads: int = 4
    decoder_mlp: int = 2048
    refined: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.clip.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the patch size {self.clip.patch_size}")
        if not self.extract_layers or not set(self.extract_layers) <= set(range(self.clip.vision_layers)):
            raise ValueError(
                f"extract_layers {self.extract_layers} must be blocks of the image tower, 0 to "
                f"{self.clip.vision_layers - 1}"
            )


class DecoderLayer(nn.Module):
    """Post-norm transformer layer: ``x = norm1(x + attention(x)); x = norm2(x + mlp(x))``, the MLP with ReLU."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, keep_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Tokens (b, t, width) -> the same, and the attention weights (b, heads, t, t) if asked for."""
        attended, weights = self_attention(self.attention, tokens, keep_weights=keep_weights)
        tokens = self.norm1(tokens + attended)
        return self.norm2(tokens + self.fc2(F.relu(self.fc1(tokens), inplace=True))), weights


class RefinedHead(nn.Module):
    """Tokens to pixels in three steps: 3x3 convolution, then two transposed convolutions that share the patch size."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        first = max(side for side in range(1, patch_size + 1) if patch_size % side == 0 and side * side <= patch_size)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(width, width // 2, first, stride=first)
        self.up2 = nn.ConvTranspose2d(width // 2, 1, patch_size // first, stride=patch_size // first)
        nn.init.constant_(self.up2.bias, RARE)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(b, gh * gw, width) -> logits (b, gh * patch_size, gw * patch_size)."""
        # (b, c, h, w) as channels_last costs nothing here, and the convolution keeps that layout
        image = rearrange(tokens, "b (h w) c -> b c h w", h=grid[0])
        features = F.relu(self.conv(image), inplace=True).permute(0, 2, 3, 1)
        fine = F.relu(tiles(self.up1, features), inplace=True)
        return rearrange(tiles(self.up2, fine), "b h w y x v u 1 -> b (h y v) (w x u)")


class PlainHead(nn.Module):
    """Tokens to pixels by one transposed convolution from the patch to its pixels."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, 1, patch_size, stride=patch_size)
        nn.init.constant_(self.up.bias, RARE)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(b, gh * gw, width) -> logits (b, gh * patch_size, gw * patch_size)."""
        features = rearrange(tokens, "b (h w) c -> b h w c", h=grid[0])
        return rearrange(tiles(self.up, features), "b h w y x 1 -> b (h y) (w x)")


def tiles(layer: nn.ConvTranspose2d, features: Tensor) -> Tensor:
    """A transposed convolution whose stride is its kernel size, as the matrix product that it is.

    The tiles do not overlap, so every input position makes its own k x k outputs. They stay an axis pair of their own:
    a next layer of this kind can go on from there, and one rearrangement at the end puts all pixels in place.

    Args:
        layer: weight (in, out, k, k).
        features: (..., in), channels last.

    Returns:
        (..., k, k, out).
    """
    side, channels = layer.kernel_size[0], layer.out_channels
    weight = rearrange(layer.weight, "i o y x -> (y x o) i")
    return F.linear(features, weight, layer.bias.repeat(side * side)).unflatten(-1, (side, side, channels))


class FilmDecoder(nn.Module):
    """Image activations and query conditions, which are CLIP's text embeddings, to logits.

    Args:
        size: hyper-parameters.
    """

    def __init__(self, size: QuerySize) -> None:
        super().__init__()
        width, depth, clip = size.reduce_dim, len(size.extract_layers), size.clip
        head = (RefinedHead if size.refined else PlainHead)(width, clip.patch_size)
        self.film_mul = nn.Linear(clip.embed_dim, width)
        self.film_add = nn.Linear(clip.embed_dim, width)
        self.reduces = nn.ModuleList(nn.Linear(clip.vision_width, width) for _ in range(depth))
        self.layers = nn.ModuleList(DecoderLayer(width, size.decoder_heads, size.decoder_mlp) for _ in range(depth))
        self.head = head

    def reduce(self, activations: Sequence[Tensor]) -> list[Tensor]:
        """Query-independent half: activations (b, t, vision_width), deepest first, each reduced to (b, t, width)."""
        return [layer(activation) for layer, activation in zip(self.reduces, activations, strict=True)]

    def forward(
        self, reduced: Sequence[Tensor], conditions: Tensor, grid: tuple[int, int], keep_attention: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Decode every query on every image.

        Args:
            reduced: what :meth:`reduce` returned.
            conditions: (n, condition_width), one per query.
            grid: patches (gh, gw), with 1 + gh * gw = t.
            keep_attention: whether to return the attention weights of the layers.

        Returns:
            Logits (b, n, h, w), and the weights per layer, (b, n, heads, t, t); an empty list if not asked for.
        """
        tokens, _, attention = self.tokens(reduced, conditions, keep_attention)
        return self.head(tokens[:, :, 1:].flatten(0, 1), grid).unflatten(0, tokens.shape[:2]), attention

    def tokens(
        self, reduced: Sequence[Tensor], conditions: Tensor, keep_attention: bool = False
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Everything before the head; arguments as above.

        Returns:
            Output of the last layer (b, n, t, width), what entered each layer, (b, n, t, width), and the attention
            weights as above.
        """
        images, queries = len(reduced[0]), len(conditions)
        scale, shift = self.film_mul(conditions), self.film_add(conditions)
        tokens, entered, attention = None, [], []
        for activation, layer in zip(reduced, self.layers, strict=True):
            activation = activation.unsqueeze(1)  # (b, 1, t, c), to be broadcast over the queries
            tokens = activation + tokens if tokens is not None else scale[:, None] * activation + shift[:, None]
            entered.append(tokens)
            tokens, weights = layer(tokens.flatten(0, 1), keep_attention)
            tokens = tokens.unflatten(0, (images, queries))
            if weights is not None:
                attention.append(weights.unflatten(0, (images, queries)))
        return tokens, entered, attention


def binary_segmentation_loss(logits: Tensor, targets: Tensor, background_weight: float) -> Tensor:
    """Weighted binary cross-entropy over all channels, the last one being the background's.

    Args:
        logits: (b, n, h, w).
        targets: int64 (b, h, w), the one channel that is positive at each pixel, 0..n-1.
        background_weight: factor of the last channel's terms, positive and negative; the others weigh 1.

    Returns:
        The mean over all b * n * h * w terms (weights are not in the denominator), in float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        index = targets.unsqueeze(1)
        # -log sigmoid(z) = softplus(-z) where positive, -log(1 - sigmoid(z)) = softplus(z) elsewhere: no one-hot map
        signed = logits.scatter(1, index, -logits.gather(1, index))
        per_channel = F.softplus(signed).mean((0, 2, 3))
        weights = torch.ones_like(per_channel)
        weights[-1] = background_weight
        return (weights * per_channel).mean()

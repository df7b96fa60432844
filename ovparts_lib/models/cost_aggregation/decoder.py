"""The decoder: from one embedded cost map per class to one logit map per class, guided by finer image features."""

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ovparts_lib.models.cost_aggregation.chunks import DEFAULT_CHUNKS, Chunks

GROUP_WIDTH = 16  # channels that a GroupNorm group has


class UpsamplingStage(nn.Module):
    """Double the resolution, join the guidance, and mix with two 3x3 convolutions.

    Args:
        dim: width of the input, and of what is mixed.
        out_dim: width of the result.
        guidance_dim: channels of the guidance, at twice the input's resolution; 0 for none.
    """

    def __init__(self, dim: int, out_dim: int, guidance_dim: int) -> None:
        super().__init__()
        groups = max(1, out_dim // GROUP_WIDTH)
        self.up = nn.ConvTranspose2d(dim, dim - guidance_dim, 2, stride=2)
        self.conv1 = nn.Conv2d(dim, out_dim, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_dim)

    def guidance_share(self, guidance: Tensor | None) -> Tensor | None:
        """What guidance (b, guidance_dim, 2h, 2w) adds to the first convolution's result, (b, out_dim, 2h, 2w).

        It is the same for all classes of an image.
        """
        share = self.conv1.weight[:, self.up.out_channels :]
        return None if guidance is None else F.conv2d(guidance, share, padding=1)

    def forward(self, maps: Tensor, share: Tensor | None) -> Tensor:
        """Maps (b * t, dim, h, w), class fastest, and :meth:`guidance_share` -> (b * t, out_dim, 2h, 2w)."""
        maps = self.up(maps)
        if share is None:
            maps = self.conv1(maps)
        else:
            maps = F.conv2d(maps, self.conv1.weight[:, : maps.shape[1]], padding=1)
            maps = maps + repeat(share, "b c h w -> (b t) c h w", t=len(maps) // len(share))
        maps = F.relu(self.norm1(maps))
        return F.relu(self.norm2(self.conv2(maps)))


class GuidedDecoder(nn.Module):
    """Upsampling stages and a last convolution to one logit.

    Args:
        dim: width of the aggregated cost.
        dims: widths of the stages' results; there are as many doublings of resolution.
        guidance_dims: channels of the guidance of each stage; zeros for none.
    """

    def __init__(self, dim: int, dims: Sequence[int] = (64, 32), guidance_dims: Sequence[int] = (32, 16)) -> None:
        super().__init__()
        widths = (dim, *dims)
        self.stages = nn.ModuleList(
            UpsamplingStage(width, out, guided) for width, out, guided in zip(widths, dims, guidance_dims, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor, guidance: Sequence[Tensor | None], *, chunks: Chunks = DEFAULT_CHUNKS) -> Tensor:
        """Decode any classes; they are independent here.

        Args:
            x: (b, t, h, w, dim).
            guidance: for each stage (b, guidance_dim, 2h, 2w), then 4h, …; None for stages without.
            chunks: see :class:`Chunks`.

        Returns:
            float32 logits (b, t, 2^s h, 2^s w) for s stages.
        """
        shares = [stage.guidance_share(maps) for stage, maps in zip(self.stages, guidance, strict=True)]

        def decode(part: Tensor) -> Tensor:
            maps = rearrange(part, "b t h w c -> (b t) c h w")
            for stage, share in zip(self.stages, shares, strict=True):
                maps = stage(maps, share)
            return rearrange(self.head(maps).float(), "(b t) 1 h w -> b t h w", b=len(part))

        return chunks.over(decode, x, tokens=len(x) * x.shape[2] * x.shape[3])

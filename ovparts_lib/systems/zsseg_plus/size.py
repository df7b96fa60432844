"""Hyper-parameters of ZSSeg+: the released model and a miniature that trains on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field

from ovparts_lib.models.backbones.resnet import RESNET_50, ResNetSize
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, ClipSize


@dataclass(frozen=True)
class ZssegPlusSize:
    """Hyper-parameters of ZSSeg+.

    Attributes:
        clip: of the frozen CLIP.
        backbone: of stage 1.
        width: of the pixel decoder and the queries.
        groups: of the pixel decoder's GroupNorms.
        queries: number of proposals.
        layers: of the transformer decoder.
        heads: of its attention.
        hidden: width of its MLPs.
        class_hidden: width inside the class head.
        shortest_edge: short side of the image in stage 1, in pixels.
        longest_edge: most pixels of its long side.
        crop_side: side of the object's crop in stage 2, a multiple of CLIP's patch size.
        prefix: number of learned vectors before the object's name.
        connection: number of learned vectors between object and part.

    Raises:
        ValueError: the crop is not made of whole patches.
    """

    clip: ClipSize = VIT_B_16
    backbone: ResNetSize = field(default=RESNET_50)
    width: int = 256
    groups: int = 32
    queries: int = 50
    layers: int = 6
    heads: int = 8
    hidden: int = 2048
    class_hidden: int = 1024
    shortest_edge: int = 512
    longest_edge: int = 768
    crop_side: int = 384
    prefix: int = 4
    connection: int = 4

    def __post_init__(self) -> None:
        if self.crop_side < 1 or self.crop_side % self.clip.patch_size:
            raise ValueError(f"crop_side {self.crop_side} is not a multiple of CLIP's patches, {self.clip.patch_size}")


RELEASED = ZssegPlusSize()
MINIATURE_ZSSEG_PLUS = ZssegPlusSize(
    clip=MINIATURE,
    backbone=ResNetSize((1, 1, 1, 1), width=16, multi_grid=(1,)),
    width=64,
    groups=8,
    queries=20,
    layers=3,
    heads=4,
    hidden=128,
    class_hidden=128,
    shortest_edge=96,
    longest_edge=192,
    crop_side=96,
)

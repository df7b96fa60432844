"""Hyper-parameters of ZSSeg+: the released model and a miniature that trains on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from ovparts_lib.models.backbones.resnet import RESNET_50, ResNetSize
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, ClipSize
from ovparts_lib.models.maskformer.size import ProposalSize


@dataclass(frozen=True)
class ZssegPlusSize(ProposalSize):
    """Hyper-parameters of ZSSeg+; edges are of the image in stage 1.

    Attributes:
        crop_side: side of the object's crop in stage 2, a multiple of CLIP's patch size.
        prefix: number of learned vectors before the object's name.
        connection: number of learned vectors between object and part.

    Raises:
        ValueError: the crop is not made of whole patches; or see :class:`ProposalSize`.
    """

    clip: ClipSize = VIT_B_16
    backbone: ResNetSize = RESNET_50
    queries: int = 50
    shortest_edge: int = 512
    longest_edge: int = 768
    crop_side: int = 384
    prefix: int = 4
    connection: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
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

"""Sizes of OVSeg."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovparts_lib.models.backbones.resnet import RESNET_101C, ResNet, ResNetSize
from ovparts_lib.models.backbones.swin import SWIN_B, Swin, SwinSize
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, VIT_L_14, ClipSize


@dataclass(frozen=True)
class OvsegSize:
    """Hyper-parameters of OVSeg.

    Attributes:
        clip: the CLIP that classifies.
        backbone: of the proposal network.
        width: channels of the pixel decoder and of the queries.
        groups: of the pixel decoder's GroupNorms.
        queries: proposals of an image.
        layers: of the transformer decoder.
        heads: of its attention.
        hidden: width of its MLPs.
        class_hidden: width inside the class head.
        dropout: of the transformer decoder, in training.
        prompt_depth: layers of the image tower that have mask prompts, the input being the first.
        templates: key of :data:`models.clip.prompts.TEMPLATES`.
        shortest_edge: pixels of a test picture's shorter side.
        longest_edge: most pixels of its longer side.
        divisor: sides are padded to multiples of it.
    """

    clip: ClipSize = VIT_L_14
    backbone: SwinSize | ResNetSize = SWIN_B
    width: int = 256
    groups: int = 32
    queries: int = 100
    layers: int = 6
    heads: int = 8
    hidden: int = 2048
    class_hidden: int = 1024
    dropout: float = 0.1
    prompt_depth: int = 3
    templates: str = "vild"
    shortest_edge: int = 640
    longest_edge: int = 2560
    divisor: int = 32

    def __post_init__(self) -> None:
        if self.templates not in TEMPLATES:
            raise ValueError(f"templates must be one of {', '.join(TEMPLATES)}, not {self.templates!r}")
        if not 0 <= self.prompt_depth <= self.clip.vision_layers:
            raise ValueError(f"prompt_depth must be 0 to {self.clip.vision_layers}, not {self.prompt_depth}")
        if self.width % self.groups or self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of groups, of heads and of 4")

    @property
    def patches(self) -> int:
        """Patches of a crop."""
        return (self.clip.image_size // self.clip.patch_size) ** 2

    def build_backbone(self) -> Swin | ResNet:
        """The backbone at random initialisation."""
        return Swin(self.backbone) if isinstance(self.backbone, SwinSize) else ResNet(self.backbone)


RELEASED = OvsegSize()
RELEASED_R101C = OvsegSize(VIT_B_16, RESNET_101C, shortest_edge=512, longest_edge=2048)
MINIATURE_OVSEG = OvsegSize(
    MINIATURE,
    SwinSize(24, (1, 1, 2, 1), (1, 2, 4, 8), window=4, drop_path=0.0),
    width=48,
    groups=4,
    queries=24,
    layers=3,
    heads=4,
    hidden=96,
    class_hidden=96,
    dropout=0.0,
    prompt_depth=2,
    templates="miniature",
    shortest_edge=96,
    longest_edge=192,
)


def stated_size(stated: dict[str, Any]) -> OvsegSize:
    """The size that a weight file states."""
    backbone = SwinSize if "depths" in stated["backbone"] else ResNetSize
    parts = {"clip": ClipSize(**stated["clip"]), "backbone": backbone(**stated["backbone"])}
    return OvsegSize(**{**stated, **parts})

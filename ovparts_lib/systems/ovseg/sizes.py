"""Sizes of OVSeg."""

from __future__ import annotations

from dataclasses import dataclass

from ovparts_lib.models.backbones.resnet import RESNET_101C
from ovparts_lib.models.backbones.swin import SwinSize
from ovparts_lib.models.clip.prompts import checked_templates
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16
from ovparts_lib.models.maskformer.size import ProposalSize


@dataclass(frozen=True)
class OvsegSize(ProposalSize):
    """Hyper-parameters of OVSeg.

    Attributes:
        dropout: of the transformer decoder, in training.
        prompt_depth: layers of the image tower that have mask prompts, the input being the first.
        templates: key of :data:`models.clip.prompts.TEMPLATES`.
    """

    dropout: float = 0.1
    prompt_depth: int = 3
    templates: str = "vild"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_templates(self.templates)
        if not 0 <= self.prompt_depth <= self.clip.vision_layers:
            raise ValueError(f"prompt_depth must be 0 to {self.clip.vision_layers}, not {self.prompt_depth}")


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

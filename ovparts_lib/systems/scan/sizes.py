"""Sizes of SCAN."""

from __future__ import annotations

from dataclasses import dataclass

from ovparts_lib.models.backbones.swin import SWIN_B, SwinSize
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, VIT_L_14, Activation, ClipSize


@dataclass(frozen=True)
class ScanSize:
    """Hyper-parameters of SCAN.

    Attributes:
        clip: the CLIP whose features calibrate, and whose tower classifies crops.
        activation: of both towers; DataComp's weights were trained with ``gelu``.
        backbone: of the proposal network.
        width: channels of pixel decoder and queries.
        groups: of the pixel decoder's GroupNorms.
        encoder_layers: of the pixel decoder's deformable encoder.
        encoder_hidden: width of its MLPs.
        points: that each of its heads samples on each scale.
        queries: proposals of an image.
        layers: of the masked-attention decoder.
        heads: of all attention.
        hidden: width of the MLPs of decoder and SIM.
        class_hidden: width inside the class head.
        context_blocks: blocks of the image tower whose patches SIM attends to.
        sigmas: width of the frequency filter of each of them, in cells of the spectrum.
        fusion_layers: attention layers and encoder layers of SIM.
        dropout: of SIM's encoder, in training.
        shift_blocks: blocks after which CS overwrites background tokens.
        templates: key of :data:`models.clip.prompts.TEMPLATES`.
        shortest_edge: pixels of a test picture's shorter side.
        longest_edge: most pixels of its longer side.
        divisor: sides are padded to multiples of it.
    """

    clip: ClipSize = VIT_L_14
    activation: Activation = "gelu"
    backbone: SwinSize = SWIN_B
    width: int = 256
    groups: int = 32
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    points: int = 4
    queries: int = 100
    layers: int = 10
    heads: int = 8
    hidden: int = 2048
    class_hidden: int = 1024
    context_blocks: tuple[int, ...] = (12, 18, 24)
    sigmas: tuple[float, ...] = (9, 7, 3)
    fusion_layers: int = 5
    dropout: float = 0.1
    shift_blocks: tuple[int, ...] = (1, 3, 5, 7, 9)
    templates: str = "vild"
    shortest_edge: int = 640
    longest_edge: int = 2560
    divisor: int = 32

    def __post_init__(self) -> None:
        for name in ("context_blocks", "sigmas", "shift_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.templates not in TEMPLATES:
            raise ValueError(f"templates must be one of {', '.join(TEMPLATES)}, not {self.templates!r}")
        if self.queries < 1 or self.layers < 1:
            raise ValueError(f"queries and layers must be at least 1, not {self.queries} and {self.layers}")
        if self.width % self.groups or self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of groups, of heads and of 4")
        if self.clip.embed_dim % self.heads:
            raise ValueError(f"CLIP's embed_dim {self.clip.embed_dim} must be a multiple of heads, {self.heads}")
        if not self.context_blocks or len(self.sigmas) != len(self.context_blocks) or min(self.sigmas) <= 0:
            raise ValueError("context_blocks needs at least one block, and sigmas a number above 0 for each of them")
        for name in ("context_blocks", "shift_blocks"):
            if not set(getattr(self, name)) <= set(range(1, self.clip.vision_layers + 1)):
                raise ValueError(f"{name} must be blocks 1 to {self.clip.vision_layers}, not {getattr(self, name)}")

    @property
    def grid(self) -> int:
        """Patches along a side of a crop."""
        return self.clip.image_size // self.clip.patch_size


RELEASED = ScanSize()
RELEASED_VITB = ScanSize(VIT_B_16, context_blocks=(6, 9, 12), shift_blocks=(1, 3, 5))
MINIATURE_SCAN = ScanSize(
    MINIATURE,
    "quick_gelu",
    SwinSize(24, (1, 1, 2, 1), (1, 2, 4, 8), window=4, drop_path=0.0),
    width=48,
    groups=4,
    encoder_layers=2,
    encoder_hidden=96,
    queries=24,
    layers=4,
    heads=4,
    hidden=96,
    class_hidden=96,
    context_blocks=(3, 4, 5),
    sigmas=(4.5, 3.5, 1.5),
    fusion_layers=2,
    dropout=0.0,
    shift_blocks=(1, 3),
    templates="miniature",
    shortest_edge=96,
    longest_edge=192,
)

"""Hyper-parameters that networks of mask proposals have in common."""

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.backbones.resnet import ResNet, ResNetSize
from ovparts_lib.models.backbones.swin import SWIN_B, Swin, SwinSize
from ovparts_lib.models.clip.towers import VIT_L_14, ClipSize


@hyper_parameters
class ProposalSize:
    """Hyper-parameters of a network of mask proposals whose classes are CLIP's text embeddings.

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
        shortest_edge: pixels of a test picture's shorter side.
        longest_edge: most pixels of its longer side.
        divisor: sides are padded to multiples of it.

    Raises:
        ValueError: no query or layer, or a width that its groups or heads do not divide.
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
    shortest_edge: int = 640
    longest_edge: int = 2560
    divisor: int = 32

    def __post_init__(self) -> None:
        if self.queries < 1 or self.layers < 1:
            raise ValueError(f"queries and layers must be at least 1, not {self.queries} and {self.layers}")
        if self.width % self.groups or self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of groups, of heads and of 4")

    @property
    def grid(self) -> int:
        """CLIP's patches along a side of a crop."""
        return self.clip.image_size // self.clip.patch_size

    def build_backbone(self) -> Swin | ResNet:
        """The backbone at random initialisation."""
        return Swin(self.backbone) if isinstance(self.backbone, SwinSize) else ResNet(self.backbone)

"""Sizes of SCAN."""

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.models.backbones.swin import SwinSize
from ovparts_lib.models.clip.prompts import checked_templates
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, Activation
from ovparts_lib.models.mask2former.pixel_decoder import Mask2FormerSize


@hyper_parameters
class ScanSize(Mask2FormerSize):
    """Hyper-parameters of SCAN; the ``clip`` also calibrates, and ``heads`` and ``hidden`` are those of SIM too.

    Attributes:
        activation: of both CLIP towers; DataComp's weights were trained with ``gelu``.
        context_blocks: blocks of the image tower whose patches SIM attends to.
        sigmas: width of the frequency filter of each of them, in cells of the spectrum.
        fusion_layers: attention layers and encoder layers of SIM.
        dropout: of SIM's encoder, in training.
        shift_blocks: blocks after which CS overwrites background tokens.
        templates: key of :data:`models.clip.prompts.TEMPLATES`.
    """

    activation: Activation = "gelu"
    context_blocks: tuple[int, ...] = (12, 18, 24)
    sigmas: tuple[float, ...] = (9, 7, 3)
    fusion_layers: int = 5
    dropout: float = 0.1
    shift_blocks: tuple[int, ...] = (1, 3, 5, 7, 9)
    templates: str = "vild"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_templates(self.templates)
        if self.clip.embed_dim % self.heads:
            raise ValueError(f"CLIP's embed_dim {self.clip.embed_dim} must be a multiple of heads, {self.heads}")
        if not self.context_blocks or len(self.sigmas) != len(self.context_blocks) or min(self.sigmas) <= 0:
            raise ValueError("context_blocks needs at least one block, and sigmas a number above 0 for each of them")
        for name in ("context_blocks", "shift_blocks"):
            if not set(getattr(self, name)) <= set(range(1, self.clip.vision_layers + 1)):
                raise ValueError(f"{name} must be blocks 1 to {self.clip.vision_layers}, not {getattr(self, name)}")


RELEASED = ScanSize()
RELEASED_VITB = ScanSize(VIT_B_16, context_blocks=(6, 9, 12), shift_blocks=(1, 3, 5))
MINIATURE_SCAN = ScanSize(
    MINIATURE,
    SwinSize(24, (1, 1, 2, 1), (1, 2, 4, 8), window=4, drop_path=0.0),
    activation="quick_gelu",
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

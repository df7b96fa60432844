"""How released cost-aggregation checkpoints call our parameters, and weights of guidance backbones alone."""

from pathlib import Path

from torch import nn

from ovparts_lib.checkpoints.backbones import load_resnet_into
from ovparts_lib.checkpoints.reading import NAMES, CheckpointError, LoadReport, load_strictly, read_tensors, renaming
from ovparts_lib.models.backbones.guidance import DinoGuidance, ResNetGuidance

released_names = renaming(NAMES["cost_aggregation"])  # of CATSeg and PartCATSeg


def load_guidance_into(guidance: nn.Module, path: str | Path) -> LoadReport:
    """Load the weights of a backbone alone, as pre-training left them.

    Args:
        guidance: ResNet-101 or DINOv2, of :mod:`models.backbones.guidance`.
        path: for DINOv2 its own file (``dinov2_vits14_pretrain.pth``) or timm's of the same names; for ResNet-101 see
            :func:`load_resnet_into`.

    Raises:
        CheckpointError: unreadable, of another backbone, or tensors missing, unexpected or misshapen.
    """
    if isinstance(guidance, DinoGuidance):
        tensors = read_tensors(path)
        state = {name.removeprefix("backbone.").removeprefix("dinov2."): tensor for name, tensor in tensors.items()}
        if len(state) < len(tensors):
            raise CheckpointError(f"{path} holds a tensor twice, with and without a prefix")
        if "patch_embed.proj.weight" not in state:
            raise CheckpointError(f"{path} is no DINOv2 backbone; its first tensors: {list(state)[:5]}")
        return load_strictly(guidance.dinov2, state, path, "DINOv2", drop=lambda name: name == "mask_token")
    if not isinstance(guidance, ResNetGuidance):
        raise CheckpointError(f"{path} was given for a guidance backbone that has no pre-trained weights")
    return load_resnet_into(guidance, path)

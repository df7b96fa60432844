"""Backbones as pre-training on ImageNet left them: ResNets with torchvision's names or detectron2's, and Swin."""

from pathlib import Path

from torch import nn

from ovparts_lib.checkpoints.reading import NAMES, CheckpointError, LoadReport, load_strictly, read_tensors, renaming
from ovparts_lib.models.backbones.swin import Swin

torchvision_names = renaming(NAMES["torchvision_resnet"])  # of ResNets with the plain stem
_CLASSIFIER = ("norm.", "head.")  # of Swin Transformers


def load_resnet_into(backbone: nn.Module, path: str | Path) -> LoadReport:
    """Load a ResNet's weights into a backbone of the same size.

    Args:
        backbone: of :mod:`models.backbones.resnet`; one without a last stage takes the others.
        path: a state dict by torchvision or detectron2, whose ``R-103.pkl`` is the R-101c that OVSeg begins from.

    Raises:
        CheckpointError: unreadable, no ResNet, or tensors missing, unexpected or misshapen.
    """
    state = read_tensors(path)
    detectron2 = "stem.conv1.weight" in state
    if not detectron2 and "layer1.0.conv1.weight" not in state:
        raise CheckpointError(f"{path} is no ResNet; its first tensors: {list(state)[:5]}")
    unused = ("fc.", "stem.fc.", "linear.", *(() if hasattr(backbone, "res5") else ("res5.", "layer4.")))
    return load_strictly(
        backbone,
        state,
        path,
        "ResNet of detectron2" if detectron2 else "ResNet of torchvision",
        names=dict if detectron2 else torchvision_names,
        drop=lambda name: name.startswith(unused) or name.endswith("num_batches_tracked"),
    )


def load_swin_into(backbone: Swin, path: str | Path) -> LoadReport:
    """Load a classifier's weights into a backbone; the norms of its outputs have no source and stay as they are.

    Args:
        backbone: receives the weights.
        path: the official release, such as ``swin_base_patch4_window12_384_22k.pth``.

    Returns:
        What was loaded, dropped (the classifier, constants) and left (``norm0`` to ``norm3``).

    Raises:
        CheckpointError: unreadable, no Swin, or tensors missing, unexpected or misshapen.
    """
    state = read_tensors(path)
    if "patch_embed.proj.weight" not in state or "layers.0.blocks.0.attn.qkv.weight" not in state:
        raise CheckpointError(f"{path} holds no Swin Transformer of the official release; first: {list(state)[:5]}")
    outputs = tuple(f"norm{number}." for number in range(len(backbone.channels)))
    return load_strictly(
        backbone,
        state,
        path,
        "Swin Transformer",
        drop=lambda name: name.startswith(_CLASSIFIER) or name.endswith(("attn_mask", "relative_position_index")),
        without=[name for name in backbone.state_dict() if name.startswith(outputs)],
    )

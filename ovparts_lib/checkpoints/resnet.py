"""ResNet weights as pre-training on ImageNet left them, with torchvision's names or detectron2's."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, load_strictly, read_tensors


def torchvision_name(name: str) -> str:
    """What torchvision calls a tensor of :class:`models.backbones.resnet.ResNet` with the plain stem."""
    module, _, leaf = name.rpartition(".")
    stage, _, inner = module.partition(".")
    if stage != "stem":
        block, _, inner = inner.partition(".")
        stage = f"layer{int(stage.removeprefix('res')) - 1}.{block}."
    else:
        stage = ""
    if inner.startswith("shortcut"):
        inner = f"downsample.{int(inner.endswith('.norm'))}"
    elif inner.endswith(".norm"):
        inner = f"bn{inner.removeprefix('conv').removesuffix('.norm')}"
    return f"{stage}{inner}.{leaf}"


def load_resnet_into(backbone: nn.Module, path: str | Path) -> LoadReport:
    """Load a ResNet's weights into a backbone of the same size.

    Args:
        backbone: of :mod:`models.backbones.resnet`.
        path: a state dict by torchvision or detectron2, whose ``R-103.pkl`` is the R-101c that OVSeg begins from.

    Raises:
        CheckpointError: unreadable, no ResNet, or tensors missing, unexpected or misshapen.
    """
    state = read_tensors(path)
    if "stem.conv1.weight" in state:
        return load_strictly(
            backbone,
            state,
            source=str(path),
            kind="ResNet of detectron2",
            drop=lambda name: name.startswith(("fc.", "stem.fc.", "linear.")) or name.endswith("num_batches_tracked"),
        )
    if "layer1.0.conv1.weight" not in state:
        raise CheckpointError(f"{path} is no ResNet; its first tensors: {list(state)[:5]}")
    return load_strictly(
        backbone,
        state,
        source=str(path),
        kind="ResNet of torchvision",
        names=lambda own: {torchvision_name(name): tensor for name, tensor in own.items()},
        drop=lambda name: name.startswith("fc.") or name.endswith("num_batches_tracked"),
    )

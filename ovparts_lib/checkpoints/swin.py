"""ImageNet weights of Swin Transformers, as backbones of proposal networks begin from."""

from __future__ import annotations

from pathlib import Path

from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, load_strictly, read_tensors
from ovparts_lib.models.backbones.swin import Swin

_CLASSIFIER = ("norm.", "head.")


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
        source=str(path),
        kind="Swin Transformer",
        drop=lambda name: name.startswith(_CLASSIFIER) or name.endswith(("attn_mask", "relative_position_index")),
        without=[name for name in backbone.state_dict() if name.startswith(outputs)],
    )

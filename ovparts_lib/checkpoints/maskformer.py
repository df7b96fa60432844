"""How released checkpoints of MaskFormer with CLIP name things, and the backbones that such a training begins from."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from torch import nn

from ovparts_lib.checkpoints.backbones import load_resnet_into, load_swin_into
from ovparts_lib.checkpoints.reading import NAMES, CheckpointError, LoadReport, renaming
from ovparts_lib.models.backbones.swin import Swin

HEAD = "sem_seg_head."
PREDICTOR = f"{HEAD}predictor."
ADAPTER = "clip_adapter."
CLIP = f"{ADAPTER}clip_model."
MASK_PROMPT = f"{CLIP}visual.mask_embedding"
NO_OBJECT = f"{ADAPTER}non_object_embedding"
_CONSTANTS = ("relative_position_index", "attn_mask", f"{ADAPTER}pixel_mean", f"{ADAPTER}pixel_std")
released_names = renaming(NAMES["maskformer"])
_BACKBONES = ("patch_embed.", "stem.conv1.", "layer1.0.")  # names that only a backbone by itself begins with


def is_constant(name: str) -> bool:
    """Whether a released tensor is a constant that we compute."""
    return name.endswith(_CONSTANTS) or name == "criterion.empty_weight"


def is_backbone(names: Collection[str]) -> bool:
    """Whether these are the tensors of a backbone alone."""
    return any(name.startswith(_BACKBONES) for name in names)


def begin_from_backbone(model: nn.Module, path: str | Path, clip_path: str | Path | None) -> LoadReport:
    """Give a new model the backbone and the CLIP that its training begins from; the rest stays random.

    Args:
        model: receives the weights.
        path: ImageNet weights of its backbone.
        clip_path: of its CLIP, see its ``load_clip``.

    Raises:
        CheckpointError: no CLIP, or a file that is unreadable or does not fit.
    """
    if clip_path is None:
        raise CheckpointError(f"{path} holds a backbone alone; give CLIP weights beside it (clip_weights)")
    read = load_swin_into if isinstance(model.backbone, Swin) else load_resnet_into
    backbone, clip = read(model.backbone, path), model.load_clip(clip_path)
    loaded = ("clip.", "original_clip.", "backbone.")
    left = (name for name in model.state_dict() if not name.startswith(loaded))
    return replace(backbone + clip, initialised=(*(f"backbone.{name}" for name in backbone.initialised), *left))

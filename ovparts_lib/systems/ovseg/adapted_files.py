"""Files of a mask-adapted CLIP: reading the release's and our own, fusing into a segmentation model, exporting."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ovparts_lib.checkpoints.clip import OPENAI_CONSTANTS
from ovparts_lib.checkpoints.native import read_metadata, save_weights
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, load_strictly, read_tensors
from ovparts_lib.models.clip.towers import VIT_B_16, VIT_L_14, ClipSize, activation_of, build_clip
from ovparts_lib.systems.adapted_clip import AdaptedClip
from ovparts_lib.systems.ovseg.model import Ovseg

PROMPT = "visual.mask_embedding"
SYSTEM = "adapted_clip"


def read_adapted(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a CLIP under OpenAI's names, and its mask prompts, if any, as ``visual.mask_embedding``.

    Args:
        path: a fine-tuning checkpoint of the release (its ``state_dict`` may have the prefix ``module.``), a plain
            state dict, OpenAI's archive, or our own file of :func:`export_adapted`.

    Raises:
        CheckpointError: unreadable, or no CLIP with a ViT image tower.
    """
    state = read_tensors(path)
    if "visual.conv1.weight" not in state:
        raise CheckpointError(f"{path} holds no CLIP with a ViT image tower; its first tensors: {list(state)[:5]}")
    return state


def load_adapted(path: str | Path, size: ClipSize | None = None) -> tuple[AdaptedClip, LoadReport]:
    """A mask-adapted CLIP from a file of :func:`read_adapted`; one without mask prompts has a depth of 0.

    Args:
        path: the file.
        size: hyper-parameters; None for what our own file says, or for ViT-B/16 or ViT-L/14, whichever fits.
    """
    state, metadata = read_adapted(path), read_metadata(path) or {}
    if size is None and "size" in metadata:
        size = ClipSize(**metadata["size"])
    if size is None:
        size = VIT_L_14 if len(state["visual.proj"]) == VIT_L_14.vision_width else VIT_B_16
    depth = len(state[PROMPT]) if PROMPT in state else 0
    model = AdaptedClip(build_clip(size, quick_gelu=True), size, depth)
    return model, _load(model, state, str(path), without_prompt=not depth)


def export_adapted(model: AdaptedClip | Ovseg, path: str | Path, **metadata: object) -> Path:
    """Write the CLIP of a model, with its mask prompts, alone; :func:`load_adapted` reads it.

    Args:
        model: a mask-adapted CLIP, or a segmentation model.
        path: file to write, ``….safetensors``.
        **metadata: anything JSON can say that should be kept with the weights.
    """
    size = model.size.clip if isinstance(model, Ovseg) else model.size
    state = dict(model.clip.state_dict())
    if len(model.mask_prompt) and getattr(model, "mask_prompts", True):
        state[PROMPT] = model.mask_prompt
    facts = {"system": SYSTEM, "size": asdict(size), "activation": activation_of(model.clip)}
    return save_weights(state, path, {**metadata, **facts})


def fuse_adapted(model: Ovseg, path: str | Path) -> LoadReport:
    """Put a mask-adapted CLIP into a segmentation model: all of CLIP is replaced.

    The proposal network need not be trained again, for adaptation leaves the text tower as it is. A file without mask
    prompts switches them off; one with prompts switches them on.

    Raises:
        CheckpointError: another size of CLIP or depth of prompts, or tensors missing or unexpected.
    """
    state = read_adapted(path)
    report = _load(model, state, str(path), without_prompt=PROMPT not in state)
    model.mask_prompts = PROMPT in state
    if PROMPT not in state:
        with torch.no_grad():
            model.mask_prompt.zero_()
    return report


def _load(model: AdaptedClip | Ovseg, state: dict[str, Tensor], source: str, *, without_prompt: bool) -> LoadReport:
    target = _ClipAndPrompt(model)
    return load_strictly(
        target,
        state,
        source=source,
        kind=f"mask-adapted CLIP{', without mask prompts' if without_prompt else ''}",
        names=lambda own: {PROMPT if name == "mask_prompt" else name.removeprefix("clip."): own[name] for name in own},
        drop=lambda name: name in OPENAI_CONSTANTS or name.endswith("attn_mask"),
        without=("mask_prompt",) if without_prompt else (),
    )


class _ClipAndPrompt(torch.nn.Module):
    """The two parts of a model that such a file holds."""

    def __init__(self, model: AdaptedClip | Ovseg) -> None:
        super().__init__()
        self.clip, self.mask_prompt = model.clip, model.mask_prompt

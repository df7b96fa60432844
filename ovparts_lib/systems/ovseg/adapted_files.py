"""Files of a mask-adapted CLIP: exporting it alone, and fusing it, or a released one, into a segmentation model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from ovparts_lib.checkpoints.clip import OPENAI_CONSTANTS
from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, load_strictly, read_tensors
from ovparts_lib.models.clip.towers import activation_of
from ovparts_lib.systems.adapted_clip import AdaptedClip
from ovparts_lib.systems.ovseg.model import Ovseg

PROMPT = "visual.mask_embedding"
SYSTEM = "adapted_clip"


def export_adapted(model: AdaptedClip | Ovseg, path: str | Path, **metadata: object) -> Path:
    """Write the CLIP of a model, with its mask prompts, alone; :func:`fuse_clip` reads it.

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


def fuse_clip(model: Ovseg, path: str | Path) -> LoadReport:
    """Put a mask-adapted CLIP into a segmentation model: all of CLIP is replaced.

    The proposal network need not be trained again, for adaptation leaves the text tower as it is. A file without mask
    prompts switches them off; one with prompts switches them on.

    Args:
        model: receives the weights.
        path: a fine-tuning checkpoint of the release, a plain state dict or an archive under OpenAI's names, or our own
            file of :func:`export_adapted`.

    Raises:
        CheckpointError: no CLIP with a ViT image tower, one of another size or depth of prompts, or tensors missing or
            unexpected.
    """
    state = read_tensors(path)
    if "visual.conv1.weight" not in state:
        raise CheckpointError(f"{path} holds no CLIP with a ViT image tower; its first tensors: {list(state)[:5]}")
    prompted = PROMPT in state
    report = load_strictly(
        _ClipAndPrompt(model),
        state,
        source=str(path),
        kind=f"mask-adapted CLIP{'' if prompted else ', without mask prompts'}",
        names=lambda own: {PROMPT if name == "mask_prompt" else name.removeprefix("clip."): own[name] for name in own},
        drop=lambda name: name in OPENAI_CONSTANTS or name.endswith("attn_mask"),
        without=() if prompted else ("mask_prompt",),
    )
    model.mask_prompts = prompted
    if not prompted:
        with torch.no_grad():
            model.mask_prompt.zero_()
    return report


class _ClipAndPrompt(torch.nn.Module):
    """The two parts of a model that such a file holds."""

    def __init__(self, model: Ovseg) -> None:
        super().__init__()
        self.clip, self.mask_prompt = model.clip, model.mask_prompt

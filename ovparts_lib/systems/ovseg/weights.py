"""OVSeg weights: the released files, our own, and a mask-adapted CLIP alone, exported or fused into a model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovparts_lib.checkpoints.clip import is_openai_constant
from ovparts_lib.checkpoints.maskformer import (
    HEAD,
    MASK_PROMPT,
    NO_OBJECT,
    PREDICTOR,
    begin_from_backbone,
    is_backbone,
    is_constant,
    released_names,
)
from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.checkpoints.reading import (
    CheckpointError,
    LoadReport,
    State,
    load_strictly,
    read_tensors,
    refuse_beside,
)
from ovparts_lib.models.clip.towers import activation_of
from ovparts_lib.systems.adapted_clip import AdaptedClip
from ovparts_lib.systems.ovseg import SYSTEM
from ovparts_lib.systems.ovseg.model import RELEASED, RELEASED_R101C, Ovseg, OvsegSize

_PROMPT = "visual.mask_embedding"
ADAPTED_CLIP = "adapted_clip"


def canonical(state: State) -> dict[str, Tensor]:
    """A released state dict in today's layout: old files lack the level ``pixel_decoder``."""
    if any(name.startswith(f"{HEAD}pixel_decoder.") for name in state):
        return dict(state)
    return {
        f"{HEAD}pixel_decoder.{name.removeprefix(HEAD)}"
        if name.startswith(HEAD) and not name.startswith(PREDICTOR)
        else name: tensor
        for name, tensor in state.items()
    }


def load_ovseg(
    path: str | Path, size: OvsegSize | None = None, clip_path: str | Path | None = None, **options: Any
) -> tuple[Ovseg, LoadReport]:
    """An OVSeg with the weights of a released file, or of our own.

    Released are ``ovseg_swinbase_vitL14_ft_mpt.pth``, ``ovseg_swinbase_vitL14_mpt_only.pt`` (the original CLIP with
    mask prompts) and ``ovseg_R101c_vitB16_ft_mpt.pth``; a model trained with the released code whose CLIP was never
    adapted has no mask prompts, which then stay zero and are not used.

    Args:
        path: file or folder; or, for a training to begin from, an ImageNet backbone (of the size's kind).
        size: hyper-parameters; None for those of the file, which for released ones are ``RELEASED`` or
            ``RELEASED_R101C``.
        clip_path: CLIP weights, beside a backbone; otherwise None, for the files bring their own.
        **options: passed on to :class:`Ovseg`.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, or a tensor missing, unexpected or misshapen.
    """
    if own := SYSTEM.load_own(path, size, options, clip_weights=clip_path):
        return own
    state = read_tensors(path)
    if is_backbone(state):
        model = Ovseg(size or RELEASED, **options)
        return model, begin_from_backbone(model, path, clip_path)
    refuse_beside(clip_path, path, "clip_weights")
    state = canonical(state)
    if NO_OBJECT not in state or f"{PREDICTOR}query_embed.weight" not in state:
        raise CheckpointError(f"{path} is no OVSeg checkpoint of a known kind; its first tensors: {list(state)[:5]}")
    resnet = "backbone.stem.conv1.weight" in state
    if size is None:
        size = RELEASED_R101C if resnet else RELEASED
    prompts = MASK_PROMPT in state
    if not prompts:
        options = {**options, "mask_prompts": False}
    model = Ovseg(size, **options)
    report = load_strictly(
        model,
        state,
        path,
        f"OVSeg with {'R-101c' if resnet else 'Swin'}{'' if prompts else ', without mask prompts'}",
        names=released_names,
        drop=is_constant,
        without=() if prompts else ("mask_prompt",),
    )
    return model, report


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
        state[_PROMPT] = model.mask_prompt
    facts = {"system": ADAPTED_CLIP, "size": asdict(size), "activation": activation_of(model.clip)}
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
    prompted = _PROMPT in state
    report = load_strictly(
        _ClipAndPrompt(model),
        state,
        path,
        f"mask-adapted CLIP{'' if prompted else ', without mask prompts'}",
        names=lambda own: {_PROMPT if name == "mask_prompt" else name.removeprefix("clip."): own[name] for name in own},
        drop=is_openai_constant,
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

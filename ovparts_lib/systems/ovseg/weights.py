"""OVSeg weights: the released files, files of an adapted CLIP, and our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ovparts_lib.checkpoints.maskformer import (
    HEAD,
    MASK_PROMPT,
    NO_OBJECT,
    PREDICTOR,
    begin_from_backbone,
    is_backbone,
    is_constant,
    released_name,
)
from ovparts_lib.checkpoints.reading import (
    CheckpointError,
    LoadReport,
    State,
    load_strictly,
    read_tensors,
    refuse_beside,
    renaming,
)
from ovparts_lib.systems.ovseg import SYSTEM
from ovparts_lib.systems.ovseg.model import Ovseg
from ovparts_lib.systems.ovseg.sizes import RELEASED, RELEASED_R101C, OvsegSize

released_names = renaming(released_name)


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
        **options: passed on to :class:`Ovseg`; ``mask_threshold`` is 0.5 for R-101c unless it is given.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, or a tensor missing, unexpected or misshapen.
    """
    own = SYSTEM.load_own(path, size, options, clip_weights=clip_path)
    if own is not None:
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
    if resnet:
        options = {"mask_threshold": 0.5, **options}
    prompts = MASK_PROMPT in state
    if not prompts:
        options = {**options, "mask_prompts": False}
    model = Ovseg(size, **options)
    report = load_strictly(
        model,
        state,
        source=str(path),
        kind=f"OVSeg with {'R-101c' if resnet else 'Swin'}{'' if prompts else ', without mask prompts'}",
        names=released_names,
        drop=is_constant,
        without=() if prompts else ("mask_prompt",),
    )
    return model, report

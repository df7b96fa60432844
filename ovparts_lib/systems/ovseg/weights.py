"""OVSeg weights: the released files, files of an adapted CLIP, and our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ovparts_lib.checkpoints.clip import load_clip_into
from ovparts_lib.checkpoints.native import read_metadata
from ovparts_lib.checkpoints.reading import (
    CheckpointError,
    LoadReport,
    State,
    load_strictly,
    read_tensors,
    refuse_beside,
)
from ovparts_lib.checkpoints.resnet import load_resnet_into
from ovparts_lib.checkpoints.swin import load_swin_into
from ovparts_lib.models.backbones.swin import Swin
from ovparts_lib.systems.ovseg.model import Ovseg
from ovparts_lib.systems.ovseg.sizes import RELEASED, RELEASED_R101C, OvsegSize
from ovparts_lib.systems.system import stated_size

HEAD = "sem_seg_head."
PREDICTOR = f"{HEAD}predictor."
ADAPTER = "clip_adapter."
CLIP = f"{ADAPTER}clip_model."
_BACKBONES = ("patch_embed.", "stem.conv1.", "layer1.0.")  # names that only a backbone by itself begins with
MASK_PROMPT = f"{CLIP}visual.mask_embedding"


def released_names(state: State) -> dict[str, Tensor]:
    """Our OVSeg state dict, or any part of it, as views under the names of released checkpoints."""
    return {released_name(name): tensor for name, tensor in state.items()}


def released_name(name: str) -> str:
    """What released checkpoints call a parameter of :class:`Ovseg`."""
    module, _, inner = name.partition(".")
    if module == "clip":
        return CLIP + inner
    if module == "pixel_decoder":
        return HEAD + name
    if module == "transformer_decoder":
        return PREDICTOR + ("transformer.decoder." if inner.startswith(("layers.", "norm.")) else "") + inner
    return {"mask_prompt": MASK_PROMPT, "no_object_text": f"{ADAPTER}non_object_embedding"}.get(name, name)


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


def is_constant(name: str) -> bool:
    """Whether a released tensor is a constant that we compute."""
    constants = ("relative_position_index", "attn_mask", f"{ADAPTER}pixel_mean", f"{ADAPTER}pixel_std")
    return name.endswith(constants) or name == "criterion.empty_weight"


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
    metadata = read_metadata(path)
    if metadata is not None and metadata.get("system") != "ovseg":
        raise CheckpointError(f"{path} holds weights of {metadata.get('system')!r}, not of 'ovseg'")
    state = read_tensors(path)
    if any(name.startswith(_BACKBONES) for name in state):
        return _begun(path, size or RELEASED, clip_path, **options)
    refuse_beside(clip_path, path, "CLIP", "clip_weights")
    if metadata is not None:
        options = {"mask_prompts": metadata.get("mask_prompts", True), **options}
        model = Ovseg(size or stated_size(OvsegSize, metadata["size"]), **options)
        return model, load_strictly(model, state, source=str(path), kind="ovparts weights")
    state = canonical(state)
    if f"{ADAPTER}non_object_embedding" not in state or f"{PREDICTOR}query_embed.weight" not in state:
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


def _begun(path: str | Path, size: OvsegSize, clip_path: str | Path | None, **options: Any) -> tuple[Ovseg, LoadReport]:
    """A model whose backbone and CLIP are pretrained; the rest is new."""
    if clip_path is None:
        raise CheckpointError(f"{path} holds a backbone alone; give CLIP weights beside it (clip_weights)")
    model = Ovseg(size, **options)
    read = load_swin_into if isinstance(model.backbone, Swin) else load_resnet_into
    backbone, clip = read(model.backbone, path), load_clip_into(model.clip, clip_path)
    parts = ("clip.", "backbone.")
    left = [name for name in model.state_dict() if not name.startswith(parts)]
    return model, LoadReport(
        source=f"{path} and {clip_path}",
        kind=f"{backbone.kind} and {clip.kind}",
        loaded=backbone.loaded + clip.loaded,
        dropped=backbone.dropped + clip.dropped,
        initialised=(*(f"backbone.{name}" for name in backbone.initialised), *left),
    )

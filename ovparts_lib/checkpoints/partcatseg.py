"""PartCATSeg weights: released files, CAT-Seg and DINOv2 as what training starts from, and our own."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ovparts_lib.checkpoints.catseg import (
    BACKGROUND,
    CLIP,
    TRANSFORMER,
    CatsegFile,
    canonical,
    is_constant,
    recognise,
    refuse_guidance,
    stated_size,
)
from ovparts_lib.checkpoints.cost_names import guidance_name, layer_name, load_guidance_into, transformer_name
from ovparts_lib.checkpoints.native import read_metadata, save_weights
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, State, load_strictly, read_tensors
from ovparts_lib.models.partcatseg import RELEASED, PartCatseg, PartCatsegSize

SecondStage = Literal["pretrained", "random"]
SECOND_STAGES = ("pretrained", "random")
# Never read by the released code: a third stack of layers, for a pass that is commented out.
DEAD = f"{TRANSFORMER}layers_object."
_COPIED = ("aggregator.specific_embedding.", "aggregator.specific_layers.")
_NEW = "aggregator.object_aware."


def released_names(state: State) -> dict[str, Tensor]:
    """Our PartCATSeg state dict, or any part of it, as views under the names of released checkpoints.

    Gradients of the same names and shapes can be renamed as well.

    Raises:
        KeyError: a name that is not ours.
    """
    return {
        # a 1x1 convolution there
        _released_name(name): tensor[..., None, None] if name == f"{_NEW}weight" else tensor
        for name, tensor in state.items()
    }


def load_partcatseg(
    path: str | Path,
    size: PartCatsegSize | None = None,
    clip_path: str | Path | None = None,
    *,
    guidance_path: str | Path | None = None,
    second_stage: SecondStage = "pretrained",
    **options: Any,
) -> tuple[PartCatseg, LoadReport]:
    """A PartCATSeg with the weights of any of three kinds of files; which kind is recognised from the content.

    - PartCATSeg's released files (one architecture for all datasets). Their background text is used, as in training;
      the released code draws it anew.
    - What training starts from: upstream CAT-Seg's first release, ``model_final_base.pth``, or a CATSeg trained on
      parts. They give CLIP, with the fine-tuned image tower, the first stage, the decoder, and the biases of the
      guidance projections (their weights too where the file has the same guidance backbone). The guidance backbone
      itself comes from ``guidance_path``, unless the file has it. The projection between the stages is new, and so is
      the background text where the file has none.
    - Our own, see :func:`save_partcatseg`.

    Args:
        path: file or folder.
        size: hyper-parameters; None for those of the file, or the released ones.
        clip_path: must be None: all these files bring their own CLIP.
        guidance_path: pre-trained weights of the guidance backbone, for DINOv2 ViT-S/14
            ``dinov2_vits14_pretrain.pth``; for files of CAT-Seg with another backbone.
        second_stage: what the second stage starts from when training starts from CAT-Seg: ``pretrained``, copies of
            the first stage's embedding and layers after these were loaded; ``random``, as released, where they are
            copied before the file is read and so hold the first stage's random initial values.
        **options: passed on to :class:`PartCatseg`.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, CAT-Seg's later version, a tensor missing, unexpected or
            misshapen, or ``clip_path`` or ``guidance_path`` given or absent where it should not be.
        ValueError: no such ``second_stage``.
    """
    if second_stage not in SECOND_STAGES:
        raise ValueError(f"second_stage must be 'pretrained' or 'random', not {second_stage!r}")
    metadata = read_metadata(path)
    system = "partcatseg" if metadata is None else metadata.get("system")
    if system not in ("partcatseg", "catseg"):
        raise CheckpointError(f"{path} holds weights of {system!r}, not of 'partcatseg'")
    if clip_path is not None:
        raise CheckpointError(f"{path} brings its own CLIP; give no clip_weights (CLIP weights) with it")
    state = read_tensors(path)
    if metadata is not None and system == "partcatseg":
        refuse_guidance(guidance_path, path)
        model = PartCatseg(size or _own_size(metadata), **options)
        return model, load_strictly(model, state, source=str(path), kind="ovparts weights")
    state = canonical(state)
    if any(name.startswith(f"{TRANSFORMER}conv_proj_feat.") for name in state):
        refuse_guidance(guidance_path, path)
        model = PartCatseg(size or RELEASED, **options)
        return model, _load(model, state, str(path), "PartCATSeg", ())
    file = recognise(state, str(path))
    model = PartCatseg(size or RELEASED, **options)
    report = _initialise(model, state, str(path), file, guidance_path)
    if second_stage == "pretrained":
        model.aggregator.copy_first_stage()
        report = replace(
            report, initialised=tuple(name for name in report.initialised if not name.startswith(_COPIED))
        )
    return model, report


def save_partcatseg(model: PartCatseg, path: str | Path, **metadata: object) -> Path:
    """Write a PartCATSeg as our own file, so that :func:`load_partcatseg` needs no more than its path.

    Args:
        model: the model.
        path: file to write, ``….safetensors``; replaced as a whole or not at all.
        **metadata: anything JSON can say that should be kept with the weights.
    """
    return save_weights(model, path, {**metadata, "system": "partcatseg", "size": asdict(model.size)})

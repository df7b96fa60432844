"""SCAN weights: the released files, what a training begins from, the fine-tuned CLIP to fuse, and our own files."""

import json
import logging
from pathlib import Path
from typing import Any

from ovparts_lib.checkpoints.maskformer import CLIP, NO_OBJECT, begin_from_backbone, is_backbone, is_constant
from ovparts_lib.checkpoints.reading import (
    CheckpointError,
    LoadReport,
    State,
    load_strictly,
    read_tensors,
    refuse_beside,
    renaming,
)
from ovparts_lib.systems.scan import SYSTEM
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.sizes import RELEASED, RELEASED_VITB, ScanSize

LEFT_OVER = (f"{CLIP}visual.cxt_decoder.", f"{CLIP}visual.learnable_weight")
# our names and the released ones
released_names = renaming(json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8")))
_log = logging.getLogger(__name__)


def is_unused(name: str) -> bool:
    """Whether a released tensor is a constant that we compute, or left over from an earlier design."""
    return is_constant(name) or name.startswith(LEFT_OVER)


def load_scan(
    path: str | Path,
    size: ScanSize | None = None,
    clip_path: str | Path | None = None,
    *,
    fused_path: str | Path | None = None,
    **options: Any,
) -> tuple[Scan, LoadReport]:
    """A SCAN with the weights of a released file, or of our own.

    Released are ``SCAN.pth`` (ViT-L/14, with the fine-tuned CLIP) and ``SCAN-vitB.pth``. Tensors that an earlier design
    left in them (``cxt_decoder``, ``learnable_weight`` of the image tower) are dropped with a warning.

    Args:
        path: file or folder; or, for a training to begin from, a Swin Transformer of the official release.
        size: hyper-parameters; None for those of the file, which for released ones are ``RELEASED`` or
            ``RELEASED_VITB``.
        clip_path: CLIP weights, beside a backbone; otherwise None, for the files bring their own.
        fused_path: a contextually shifted CLIP to put in place of the file's own, see :func:`fuse_clip`.
        **options: passed on to :class:`Scan`.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded and dropped.

    Raises:
        CheckpointError: unreadable or unrecognised file, or a tensor missing, unexpected or misshapen.
    """
    loaded = SYSTEM.load_own(path, size, options, clip_weights=clip_path)
    if loaded is None:
        state = read_tensors(path)
        if is_backbone(state):
            model = Scan(size or RELEASED, **options)
            return model, begin_from_backbone(model, path, clip_path)
        refuse_beside(clip_path, path, "clip_weights")
        loaded = _load_released(path, state, size, **options)
    model, report = loaded
    return model, report if fused_path is None else report + fuse_clip(model, fused_path)


def _load_released(path: str | Path, state: State, size: ScanSize | None, **options: Any) -> tuple[Scan, LoadReport]:
    if NO_OBJECT not in state or "LFM.conv1.weight" not in state:
        raise CheckpointError(f"{path} is no SCAN checkpoint of a known kind; its first tensors: {list(state)[:5]}")
    if size is None:
        size = RELEASED if state[NO_OBJECT].shape[1] == RELEASED.clip.embed_dim else RELEASED_VITB
    model = Scan(size, **options)
    kind = f"SCAN with {size.clip.name}"
    report = load_strictly(model, state, path, kind, names=released_names, drop=is_unused)
    warn_left_over(report)
    return model, report


def fuse_clip(model: Scan, path: str | Path) -> LoadReport:
    """Put a contextually shifted CLIP into a segmentation model: the CLIP that classifies crops and encodes texts.

    The frozen CLIP that SIM and CS ask about the whole image stays the original.

    Args:
        model: receives the weights.
        path: the released ``CS_CLIP.pt`` (``module.clip_model.…``; its copy of the original tower is dropped), or our
            own file of :func:`systems.scan.fine_tuning.save_shifted`.

    Returns:
        What was loaded and dropped, under the file's names.

    Raises:
        CheckpointError: a file of another kind, another size of CLIP, or tensors missing or unexpected. The model is
            then unchanged.
    """
    state = read_tensors(path)
    beginning = "clip_model."
    if f"{beginning}visual.proj" not in state:
        raise CheckpointError(
            f"{path} is no contextually shifted CLIP: needed are tensors clip_model.visual.…, as in CS_CLIP.pt; "
            f"its first tensors: {list(state)[:5]}"
        )
    left_over = ("original_clip_visual.", f"{beginning}visual.cxt_decoder.", f"{beginning}visual.learnable_weight")
    report = load_strictly(
        model.clip,
        state,
        path,
        "contextually shifted CLIP",
        names=lambda own: {beginning + name: tensor for name, tensor in own.items()},
        drop=lambda name: name.startswith(left_over) or name.endswith("attn_mask"),
    )
    warn_left_over(report)
    return report


def warn_left_over(report: LoadReport) -> None:
    """Say which dropped tensors belong to no module of the published design."""
    names = [name for name in report.dropped if "visual.cxt_decoder." in name or name.endswith(".learnable_weight")]
    if names:
        _log.warning("%s: dropped what an earlier design of SCAN left behind: %s", report.source, ", ".join(names))

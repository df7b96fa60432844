"""ZSSeg+ weights: the released files, prompt files, our own, and CLIP and ResNet-50 that a training begins from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ovparts_lib.checkpoints.backbones import load_resnet_into
from ovparts_lib.checkpoints.clip import load_clip_into
from ovparts_lib.checkpoints.maskformer import ADAPTER, NO_OBJECT, released_names
from ovparts_lib.checkpoints.native import read_metadata, save_weights
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, load_strictly, read_tensors, refuse_beside
from ovparts_lib.systems.zsseg_plus import SYSTEM
from ovparts_lib.systems.zsseg_plus.model import RELEASED, ZssegPlus, ZssegPlusSize

PROMPTS = "zsseg_plus_prompts"
LEARNER = "prompt_learner."
# Of "'s", which no text holds, and of padding, which no text is read at.
_UNUSED_SIGNALS = ("ss_signal", "pad_signal")


def is_unused(name: str) -> bool:
    """Whether a released tensor is a constant, is never read, or repeats another under an older name."""
    return name in ("criterion.empty_weight", f"{ADAPTER}fuse_weight") or name.endswith(_UNUSED_SIGNALS)


def load_zsseg_plus(
    path: str | Path, size: ZssegPlusSize | None = None, clip_path: str | Path | None = None, **options: Any
) -> tuple[ZssegPlus, LoadReport]:
    """A ZSSeg+ with the weights of a file; which kind is recognised from the content.

    - Released, for Pascal-Part-116 and ADE20K-Part-234: CLIP and prompts included, CLIP in half precision.
    - Our own.

    Args:
        path: file or folder.
        size: hyper-parameters; None for those of the file, ``RELEASED`` for released ones.
        clip_path: must be None: these files bring their own CLIP.
        **options: passed on to :class:`ZssegPlus`.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded and dropped.

    Raises:
        CheckpointError: unreadable or unrecognised file, or a tensor missing, unexpected or misshapen.
    """
    if own := SYSTEM.load_own(path, size, options, clip_weights=clip_path):
        return own
    refuse_beside(clip_path, path, "clip_weights")
    state = read_tensors(path)
    if f"{ADAPTER}{LEARNER}prefix_prompt" not in state or NO_OBJECT not in state:
        raise CheckpointError(f"{path} is no ZSSeg+ checkpoint; its first tensors: {list(state)[:5]}")
    model = ZssegPlus(size or RELEASED, **options)
    return model, load_strictly(model, state, path, "ZSSeg+ of OV-PARTS", names=released_names, drop=is_unused)


def load_prompts_into(model: ZssegPlus, path: str | Path) -> LoadReport:
    """Load tuned prompts and their fusion weight, released (``voc_cpt_coop_model.pth``) or our own, into a model.

    Of a released file every tensor whose name contains ``prompt_learner`` is read and the others are left alone, as the
    released loader does; so a whole ZSSeg+ checkpoint will do as well.

    Raises:
        CheckpointError: unreadable file, one without prompts, or a tensor missing, unexpected or misshapen; or prompts
            that depend on the image (CPTCoCoOp) for a model whose prompts do not, or the reverse.
    """
    metadata, state = read_metadata(path), read_tensors(path)
    if metadata is not None and metadata.get("system") not in (PROMPTS, SYSTEM.name):
        raise CheckpointError(f"{path} holds {metadata.get('system')!r}, which has no prompts of ZSSeg+")
    if metadata is not None and metadata["conditional"] != model.prompt_learner.conditional:
        kind = "CPTCoCoOp" if metadata["conditional"] else "CPTCoOp"
        raise CheckpointError(f"{path} holds prompts of {kind}; set conditional to {metadata['conditional']}")
    found = {name.partition(LEARNER)[2]: tensor for name, tensor in state.items() if LEARNER in name}
    if not found:
        raise CheckpointError(f"{path} holds no prompts of ZSSeg+; its first tensors: {list(state)[:5]}")
    lacking = [name for name in _UNUSED_SIGNALS if metadata is None and name not in found]
    if lacking:
        raise CheckpointError(f"{path} (prompts of CPTCoOp) lacks {', '.join(LEARNER + name for name in lacking)}")
    kind = "prompts of CPTCoOp" if metadata is None else "ovparts prompts"
    return load_strictly(model.prompt_learner, found, path, kind, drop=lambda name: name in _UNUSED_SIGNALS)


def save_prompts(model: ZssegPlus, path: str | Path, **metadata: object) -> Path:
    """Write tuned prompts and their fusion weight alone, for :func:`load_prompts_into`.

    Args:
        model: has them.
        path: file to write, ``….safetensors``.
        **metadata: anything JSON can say that should be kept with them, such as the recipe.
    """
    state = {LEARNER + name: tensor for name, tensor in model.prompt_learner.state_dict().items()}
    own = {"system": PROMPTS, "conditional": model.prompt_learner.conditional}
    return save_weights(state, path, {**metadata, **own})


def initialise(
    model: ZssegPlus, clip_path: str | Path, *, prompts: str | Path | None = None, backbone: str | Path | None = None
) -> LoadReport:
    """What a training of stage 1 begins from; the rest of the model is new.

    Args:
        model: receives the weights.
        clip_path: OpenAI's ViT-B/16, or another CLIP of the model's size.
        prompts: see :func:`load_prompts_into`; None if they are tuned later.
        backbone: ResNet-50 pre-trained on ImageNet, with torchvision's names or detectron2's.

    Raises:
        CheckpointError: a file is unreadable or does not fit.
    """
    reports = [load_clip_into(model.clip, clip_path)]
    if prompts is not None:
        reports.append(load_prompts_into(model, prompts))
    if backbone is not None:
        reports.append(load_resnet_into(model.backbone, backbone))
    return replace(sum(reports[1:], reports[0]), initialised=())

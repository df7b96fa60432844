"""Files of CATSeg, which its successor begins a training from too: what they are, and loading them into a model."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ovparts_lib.checkpoints.cost_aggregation import load_guidance_into
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, State, load_strictly, refuse_beside
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.systems.cost_segmenter import RELEASED, RELEASED_DINOV2, CostSegmenter, CostSize

Names = Callable[[State], State]
PREDICTOR = "sem_seg_head.predictor."
TRANSFORMER = f"{PREDICTOR}transformer."
BACKGROUND = f"{PREDICTOR}non_object_embedding"
DINOV2 = "backbone.dinov2."
NEEDED = (
    "needed is the first release of CAT-Seg (B), model_final_base.pth of hamacojr/CAT-Seg: ResNet-101 guidance, CLIP "
    "ViT-B/16 and a cost embedding of 80 prompts (conv1.weight of shape 128 x 80 x 7 x 7)"
)


def canonical(state: State) -> dict[str, Tensor]:
    """A released state dict with ``affinity`` in its names renamed to ``guidance``."""
    return {name.replace("affinity", "guidance"): tensor for name, tensor in state.items()}


def is_constant(name: str) -> bool:
    """Whether a released tensor is a constant that we compute, or one that is never read."""
    return name.endswith(("attn_mask", "pixel_mean", "pixel_std")) or name == f"{DINOV2}mask_token"


def require_cost_embedding(state: State, source: str, size: CostSize) -> None:
    """Check the shape of the cost embedding, which has a channel for each of the size's templates.

    Raises:
        CheckpointError: it is another; the message names the templates of which there are as many, and how to say so.
    """
    conv = state.get(f"{TRANSFORMER}conv1.weight")
    wanted, released = (
        (each.aggregator.dim, each.aggregator.prompts, each.aggregator.kernel, each.aggregator.kernel)
        for each in (size, RELEASED)
    )
    if conv is None or tuple(conv.shape) == wanted:
        return
    others = [name for name, prompts in TEMPLATES.items() if len(prompts) == conv.shape[1] != wanted[1]]
    needed = NEEDED if wanted == released else f"the size that was asked for has {wanted}"
    if others:
        needed = (
            f"the size that was asked for has {wanted}. It was trained with {conv.shape[1]} prompts, not with the "
            f"{wanted[1]} of {size.templates!r}. Set templates: {' or '.join(others)}; and if it was trained on "
            "PartImageNet also test_shortest_edge: none, for that was scored at the pictures' own size"
        )
    raise CheckpointError(f"{source}: conv1.weight is a cost embedding of shape {tuple(conv.shape)}; {needed}")


@dataclass(frozen=True)
class CostFile:
    """What a released file is: its kind, the size it was trained with, and whether it holds the background text."""

    kind: str
    size: CostSize
    background: bool


def recognise(state: State, source: str, size: CostSize | None = None) -> CostFile:
    """What a released state dict is.

    Args:
        state: without a wrapper's prefix.
        source: the file, for messages.
        size: of the model that is to receive it; None for the released one.

    Raises:
        CheckpointError: it is CAT-Seg's version published at CVPR, of another size, or none of CATSeg's.
    """
    size, conv = size or RELEASED, state.get(f"{TRANSFORMER}conv1.weight")
    later = conv is not None and conv.ndim == 4 and conv.shape[1] == 1 != size.aggregator.prompts
    if later or any("padding_" in name or "q_proj_weight" in name or "upsample1" in name for name in state):
        raise CheckpointError(
            f"{source} is CAT-Seg's later version, as published at CVPR 2024 (model_base.pth), whose layout is "
            f"another; {NEEDED}"
        )
    if conv is None:
        raise CheckpointError(
            f"{source} is no CATSeg checkpoint of a known kind: it lacks {TRANSFORMER}conv1.weight; its first tensors: "
            f"{list(state)[:5]}"
        )
    require_cost_embedding(state, source, size)
    if any(name.startswith(f"{TRANSFORMER}layers_specific_part.") for name in state):
        raise CheckpointError(f"{source} is a checkpoint of PartCATSeg, not of CATSeg")
    if any(name.startswith(DINOV2) for name in state):
        return CostFile("CATSeg with DINOv2 guidance", RELEASED_DINOV2, True)
    if not any(name.startswith("backbone.stem.") for name in state):
        raise CheckpointError(f"{source} has neither ResNet-101 nor DINOv2 guidance; {NEEDED}")
    if BACKGROUND in state:
        return CostFile("CATSeg of OV-PARTS", RELEASED, True)
    return CostFile("upstream CAT-Seg, first release", RELEASED, False)


def load_cost_into(
    model: CostSegmenter,
    state: State,
    source: str,
    file: CostFile,
    guidance_path: str | Path | None,
    *,
    names: Names,
    without: Collection[str] = (),
    dead: tuple[str, ...] = (),
) -> LoadReport:
    """Load what a CATSeg file has; the guidance backbone from its own file where the model has another.

    Args:
        model: receives the weights.
        state: the file's tensors.
        source: the file, for messages.
        file: what :func:`recognise` found.
        guidance_path: weights of the guidance backbone.
        names: our state dict under the file's names.
        without: names of the model's tensors that CATSeg has not.
        dead: beginnings of names, in the file, that are never read.

    Raises:
        CheckpointError: also if weights of the guidance backbone are given or absent where they should not be.
    """
    without = [*without, *([] if file.background else ["background_text"])]
    wanted, given = model.size.guidance.kind, file.size.guidance.kind
    backbone = [] if wanted == given else [name for name in model.state_dict() if name.startswith("guidance.")]
    if wanted == given:
        refuse_beside(guidance_path, source, "guidance_weights")
    elif wanted in ("none", "small"):
        raise CheckpointError(f"{source} ({file.kind}) cannot start a {type(model).__name__} with {wanted!r} guidance")
    elif guidance_path is None:
        raise CheckpointError(
            f"{source} ({file.kind}) brings {given} guidance, but {wanted} is wanted; give its pre-trained weights as "
            "guidance_weights, for DINOv2 ViT-S/14 dinov2_vits14_pretrain.pth"
        )
    else:
        # The projections read features of another width; their biases are loaded.
        projections = [name for name in model.state_dict() if "appearance." in name and name.endswith(".weight")]
        without, dead = [*without, *projections, *backbone], (*dead, "backbone.", "guidance.")
    # what the file has of what is not loaded is dropped
    dropped = set(names({name: tensor for name, tensor in model.state_dict().items() if name in without}))
    report = load_strictly(
        model,
        state,
        source,
        file.kind,
        names=names,
        drop=lambda name: name in dropped or is_constant(name) or name.startswith(dead),
        without=tuple(without),
    )
    if wanted == given:
        return report
    pretrained = load_guidance_into(model.guidance, guidance_path)
    left = tuple(name for name in report.initialised if name not in backbone)
    return replace(report + pretrained, kind=file.kind, initialised=left)

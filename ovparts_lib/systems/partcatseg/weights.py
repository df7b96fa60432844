"""PartCATSeg weights: released files, CAT-Seg and DINOv2 as what training starts from, and our own."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ovparts_lib.checked import checked_arguments
from ovparts_lib.checkpoints import cost_aggregation
from ovparts_lib.checkpoints.native import read_metadata
from ovparts_lib.checkpoints.reading import LoadReport, State, read_tensors, refuse_beside
from ovparts_lib.systems.cost_segmenter import TestEdge
from ovparts_lib.systems.cost_weights import (
    TRANSFORMER,
    CostFile,
    canonical,
    load_cost_into,
    recognise,
    require_cost_embedding,
)
from ovparts_lib.systems.partcatseg import SYSTEM
from ovparts_lib.systems.partcatseg.model import RELEASED, PartCatseg, PartCatsegSize
from ovparts_lib.systems.partcatseg.options import SecondStage

BEGINS_FROM = "catseg"  # whose own files serve to begin a training
# Never read by the released code: a third stack of layers, for a pass that is commented out.
DEAD = f"{TRANSFORMER}layers_object."
# What PartCATSeg's files have and CATSeg's have not; any of them will do, so that the lack of others can be named.
OWN = tuple(f"{TRANSFORMER}{module}." for module in ("conv_proj_feat", "conv2", "layers_specific_part"))
_COPIED = ("aggregator.specific_embedding.", "aggregator.specific_layers.")
_NEW = "aggregator.object_aware."


def released_names(state: State) -> dict[str, Tensor]:
    """Our PartCATSeg state dict, or any part of it, as views under the names of released checkpoints.

    Gradients of the same names and shapes can be renamed as well. Shapes are as they are, but for the projection
    between the stages: (d, 2 dim) here, (d, 2 dim, 1, 1) there.
    """
    renamed = cost_aggregation.released_names(state)
    joined = f"{TRANSFORMER}conv_proj_feat.weight"
    return renamed if joined not in renamed else renamed | {joined: renamed[joined][..., None, None]}  # a convolution


@checked_arguments
def load_partcatseg(
    path: str | Path,
    size: PartCatsegSize | None = None,
    clip_path: str | Path | None = None,
    *,
    guidance_path: str | Path | None = None,
    second_stage: SecondStage = "pretrained",
    templates: str | None = None,
    test_shortest_edge: TestEdge = "as_trained",
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
    - Our own; our own files of CATSeg serve to start from as well.

    Args:
        path: file or folder.
        size: hyper-parameters; None for those of the file, or the released ones.
        clip_path: must be None: all these files bring their own CLIP.
        guidance_path: pre-trained weights of the guidance backbone, for DINOv2 ViT-S/14
            ``dinov2_vits14_pretrain.pth``; for files of CAT-Seg with another backbone.
        second_stage: what the second stage starts from when training starts from CAT-Seg: ``pretrained``, copies of
            the first stage's embedding and layers after these were loaded; ``random``, as released, where they are
            copied before the file is read and so hold the first stage's random initial values.
        templates: what no tensor tells, see :meth:`CostSize.read_as`; ``imagenet_select`` for files of 8 prompts.
        test_shortest_edge: likewise; None for files of PartImageNet.
        **options: passed on to :class:`PartCatseg`.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, CAT-Seg's later version, a tensor missing, unexpected or
            misshapen, or ``clip_path`` or ``guidance_path`` given or absent where it should not be.
        ValueError: no such ``second_stage``.
    """
    refuse_beside(clip_path, path, "clip_weights")
    metadata, source = read_metadata(path) or {}, str(path)
    begins = metadata.get("system") == BEGINS_FROM
    read_as = partial(PartCatsegSize.read_as, templates=templates, test_shortest_edge=test_shortest_edge)
    if not begins and (own := SYSTEM.load_own(path, size, options, read_as=read_as, guidance_weights=guidance_path)):
        return own
    state = read_tensors(path)
    if begins:
        # our own file of CATSeg, with PartCATSeg's class attention
        stated = PartCatsegSize(**metadata["size"])
        size = read_as(size or replace(stated, aggregator=replace(stated.aggregator, class_attention="query")))
        file, names, trained = CostFile("ovparts weights of CATSeg", stated, True), _catseg_names, False
    else:
        state, size = canonical(state), read_as(size or RELEASED)
        trained, names = any(name.startswith(OWN) for name in state), released_names
        if trained:
            require_cost_embedding(state, source, size)
        file = CostFile("PartCATSeg", size, True) if trained else recognise(state, source, size)
    model = PartCatseg(size, **options)
    without = [] if trained else [name for name in model.state_dict() if name.startswith((*_COPIED, _NEW))]
    report = load_cost_into(model, state, source, file, guidance_path, names=names, without=without, dead=(DEAD,))
    if second_stage == "pretrained" and not trained:
        model.aggregator.copy_first_stage()
        kept = tuple(name for name in report.initialised if not name.startswith(_COPIED))
        report = replace(report, initialised=kept)
    return model, report


def _catseg_names(state: State) -> dict[str, Tensor]:
    """Our PartCATSeg state dict under the names that CATSeg's parameters have in our own files."""
    return {name.removeprefix("aggregator."): tensor for name, tensor in state.items()}

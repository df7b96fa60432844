"""CATSeg weights: OV-PARTS' files, the DINOv2 variant's, upstream CAT-Seg's as initialisation, and our own."""

from functools import partial
from pathlib import Path
from typing import Any

from ovparts_lib.checkpoints.cost_aggregation import released_names
from ovparts_lib.checkpoints.reading import LoadReport, read_tensors, refuse_beside
from ovparts_lib.systems.catseg import SYSTEM
from ovparts_lib.systems.catseg.model import RELEASED, Catseg, CostSize
from ovparts_lib.systems.cost_segmenter import TestEdge
from ovparts_lib.systems.cost_weights import canonical, load_cost_into, recognise


def load_catseg(
    path: str | Path,
    size: CostSize | None = None,
    clip_path: str | Path | None = None,
    *,
    guidance_path: str | Path | None = None,
    templates: str | None = None,
    test_shortest_edge: TestEdge = "as_trained",
    **options: Any,
) -> tuple[Catseg, LoadReport]:
    """A CATSeg with the weights of any of four kinds of files; which kind is recognised from the content.

    - OV-PARTS' CATSeg (ResNet-101), and PartCATSeg's CATSeg (ResNet-101 or DINOv2): files of detectron2.
    - Upstream CAT-Seg's first release, ``model_final_base.pth``, which training starts from. It lacks the background
      text, which is drawn anew. Its CLIP image tower is fine-tuned and comes along.
    - Either of them where ``size`` asks for another guidance backbone: the backbone then comes from ``guidance_path``,
      and the convolutions that read its features are new (their biases are loaded).
    - Our own.

    Args:
        path: file or folder.
        size: hyper-parameters; None for those of the file, which for detectron2's are ``RELEASED`` or
            ``RELEASED_DINOV2``.
        clip_path: must be None: all these files bring their own CLIP.
        guidance_path: weights of the guidance backbone, where ``size`` asks for another than the file has: for DINOv2
            ``dinov2_vits14_pretrain.pth``.
        templates: what no tensor tells, see :meth:`CostSize.read_as`; ``imagenet_select`` for files of 8 prompts.
        test_shortest_edge: likewise; None for files of PartImageNet.
        **options: passed on to :class:`Catseg`.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, upstream's later version, a tensor missing, unexpected or
            misshapen, or ``clip_path`` or ``guidance_path`` given or absent where it should not be.
    """
    read_as = partial(CostSize.read_as, templates=templates, test_shortest_edge=test_shortest_edge)
    own = SYSTEM.load_own(path, size, options, read_as=read_as, clip_weights=clip_path, guidance_weights=guidance_path)
    if own is not None:
        return own
    refuse_beside(clip_path, path, "clip_weights")
    state = canonical(read_tensors(path))
    file = recognise(state, str(path), read_as(size or RELEASED))
    model = Catseg(read_as(size or file.size), **options)
    return model, load_cost_into(model, state, str(path), file, guidance_path, names=released_names)

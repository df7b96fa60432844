"""PartCLIPSeg weights: the released files, our own, and every CLIPSeg file that a training can begin from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ovparts_lib.checkpoints.native import read_metadata
from ovparts_lib.checkpoints.reading import (
    CheckpointError,
    LoadReport,
    State,
    load_strictly,
    read_tensors,
    refuse_beside,
)
from ovparts_lib.systems.partclipseg import SYSTEM
from ovparts_lib.systems.partclipseg.model import Partclipseg
from ovparts_lib.systems.query_segmenter import QuerySize
from ovparts_lib.systems.query_weights import OWN, hub_names, is_dead, load_query_into, query_size, recognise

RELEASED_PREFIX = "partclipseg_model."
BEGINS_FROM = "clipseg"  # whose own files serve to begin a training
_PAIR = "decoder.pair_"
# What a CLIPSeg gives to the pair stage, see PartclipsegDecoder.copy_to_pairs.
_COPIED = ("decoder.pair_film_", "decoder.pair_head.")


def released_names(state: State) -> dict[str, Tensor]:
    """Our PartCLIPSeg state dict, or any part of it, as views under the names of the released checkpoints.

    Gradients of the same names and shapes can be renamed as well.
    """
    return {RELEASED_PREFIX + name: tensor for name, tensor in hub_names(state).items()}


def load_partclipseg(
    path: str | Path, size: QuerySize | None = None, clip_path: str | Path | None = None, **options: Any
) -> tuple[Partclipseg, LoadReport]:
    """A PartCLIPSeg with the weights of a file; which kind is recognised from the content.

    - Released: ``partclipseg_voc_oracle.pth`` and ``partclipseg_ade_oracle.pth``, files of detectron2 whose tensors are
      called ``partclipseg_model.…``. They fill the object's slot of a pair as ``object_text="released"`` says.
    - Our own; they say how they fill it.
    - Any CLIPSeg that :func:`systems.clipseg.weights.load_clipseg` reads, to begin a training from: the hub's
      ``CIDAS/clipseg-rd64-refined`` as published, or one of our own. FiLM and head are copied to the pair stage; the
      two layers that join features and texts are drawn anew from torch's generator, and so is what the file lacks.

    Args:
        path: file or folder.
        size: hyper-parameters; None for those of the file.
        clip_path: CLIP weights for a file that holds a decoder only, see :func:`systems.clipseg.weights.load_clipseg`.
        **options: passed on to :class:`Partclipseg`. ``object_text`` need not be given where the weights fix it. To
            train as the released code does: ``attention_rule="released"``, ``label_resize="floor"``, and
            ``loss_mean="batch"`` where one device holds the whole batch; from a hub model also
            ``object_text="released"``.

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value. A file
        that is a trained PartCLIPSeg leaves nothing at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, a tensor missing, unexpected or misshapen, ``clip_path`` given
            or absent where it should not be, or ``object_text`` other than the weights were trained with.
    """
    metadata = read_metadata(path)
    if metadata is not None and metadata.get("system") != BEGINS_FROM:
        if metadata.get("system") == SYSTEM.name:
            _take_object_text(options, metadata.get("object_text"), path)
        return SYSTEM.load_own(path, size, options, clip_weights=clip_path)
    state = read_tensors(path)
    if any(name.startswith(RELEASED_PREFIX) for name in state):
        _take_object_text(options, "released", path)
        refuse_beside(clip_path, path, "clip_weights")
        model, kind = Partclipseg(size or query_size(state), **options), "PartCLIPSeg released checkpoint"
        return model, load_strictly(model, state, path, kind, names=released_names, drop=is_dead)
    file = recognise(state, str(path)) if metadata is None else OWN
    given = query_size(state) if metadata is None else QuerySize(**metadata["size"])
    model = Partclipseg(size or given, **options)
    pair = tuple(name for name in model.state_dict() if name.startswith(_PAIR))
    report = load_query_into(model, path, state, file, clip_path, without=pair)
    model.decoder.copy_to_pairs()
    new = tuple(name for name in report.initialised if not name.startswith(_COPIED))
    return model, replace(report, initialised=new)


def _take_object_text(options: dict[str, Any], stated: str | None, source: str | Path) -> None:
    """Set the option to how the weights of a trained PartCLIPSeg fill the object's slot of a pair."""
    asked = options.get("object_text") or stated
    if asked != stated:
        raise CheckpointError(
            f"{source} was trained with object_text {stated!r}, and gives wrong scores with {asked!r}; leave it out, "
            f"or say {stated!r}"
        )
    options["object_text"] = stated

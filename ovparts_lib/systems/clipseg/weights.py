"""CLIPSeg weights: OV-PARTS' fine-tuned files, the hub's models, timojl's decoder files, and our own."""

from pathlib import Path
from typing import Any

from ovparts_lib.checkpoints.reading import LoadReport, read_tensors
from ovparts_lib.systems.clipseg import SYSTEM
from ovparts_lib.systems.clipseg.model import Clipseg
from ovparts_lib.systems.query_segmenter import QuerySize
from ovparts_lib.systems.query_weights import load_query_into, query_size, recognise


def load_clipseg(
    path: str | Path, size: QuerySize | None = None, clip_path: str | Path | None = None, **options: Any
) -> tuple[Clipseg, LoadReport]:
    """A CLIPSeg with the weights of any of the four kinds of files; which kind is recognised from the content.

    - OV-PARTS, fine-tuned: a file of detectron2 whose tensors are called ``clipseg_model.…``.
    - The hub's ``CIDAS/clipseg-rd64-refined``, ``-rd64`` and ``-rd16``: a file (safetensors or ``.bin``) or the folder.
      Visual adapter and background query are not in it; they are drawn anew from torch's generator, as at the start
      of OV-PARTS' fine-tuning.
    - timojl/clipseg: decoder only, with CLIP ViT-B/16 from ``clip_path``; what the hub's files lack is drawn as there.
    - Our own.

    Args:
        path: file or folder.
        size: hyper-parameters; None for those of the file.
        clip_path: CLIP weights for a file that holds a decoder only, see :func:`checkpoints.clip.load_clip_into`.
        **options: passed on to :class:`Clipseg` (``query_chunk``, ``label_resize``, ``checkpoint_decoder``).

    Returns:
        The model on the CPU, in float32, and a report of what was loaded, dropped and left at its initial value.

    Raises:
        CheckpointError: unreadable or unrecognised file, a tensor missing, unexpected or misshapen, or ``clip_path``
            given or absent where it should not be.
    """
    if own := SYSTEM.load_own(path, size, options, clip_weights=clip_path):
        return own
    state = read_tensors(path)
    file = recognise(state, str(path))
    model = Clipseg(size or query_size(state), **options)
    return model, load_query_into(model, path, state, file, clip_path)

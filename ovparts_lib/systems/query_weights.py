"""Files of CLIPSeg, which its successor begins a training from too: what they are, and loading them into a model."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ovparts_lib.checkpoints.clip import huggingface_names, is_position_ids, load_clip_into, split_projections
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, State, load_strictly, refuse_beside, renaming
from ovparts_lib.systems.query_segmenter import RELEASED, QuerySegmenter, QuerySize

FINE_TUNED_PREFIX = "clipseg_model."
DEAD = ("text_adapter.", "tunable_linear.")  # never read by the released code, or multiplied by zero
ADAPTERS = ("visual_adapter.", "background_query")  # what OV-PARTS adds
_NAMES = json.loads(Path(__file__).with_name("query_names.json").read_text(encoding="utf-8"))
_hub_names, _timojl_names = renaming(_NAMES["hub"]), renaming(_NAMES["timojl"])  # our names to released ones


@dataclass(frozen=True)
class QueryFile:
    """How one kind of file names things: what marks it, key map, what it holds beyond need, what it lacks."""

    kind: str
    marks: tuple[str, ...]
    names: Callable[[State], State]
    drop: Callable[[str], bool] = lambda name: False
    lacks: Callable[[str], bool] = lambda name: False


def hub_names(state: State) -> dict[str, Tensor]:
    """Our CLIPSeg state dict, or any part of it, as views under the names of the hub's and OV-PARTS' models.

    The names are those of ``CIDAS/clipseg-rd64-refined`` and, for adapter and background query, of OV-PARTS without its
    prefix; for PartCLIPSeg's pair stage those of its release. Gradients of the same names and shapes can be renamed as
    well. Fused attention projections are cut in three.
    """
    clip = {name.removeprefix("clip."): tensor for name, tensor in state.items() if name.startswith("clip.")}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("clip.")}
    return huggingface_names(clip, prefix="clip.") | split_projections(_hub_names(rest))


def fine_tuned_names(state: State) -> dict[str, Tensor]:
    """Like :func:`hub_names`, with the prefix of OV-PARTS' fine-tuned checkpoints."""
    return {FINE_TUNED_PREFIX + name: tensor for name, tensor in hub_names(state).items()}


def timojl_names(state: State) -> dict[str, Tensor]:
    """The decoder's part of our state dict as views under the names of timojl/clipseg's decoder files."""
    return _timojl_names({name: tensor for name, tensor in state.items() if name.startswith("decoder.")})


def load_query_into(
    model: QuerySegmenter,
    path: str | Path,
    state: State,
    file: QueryFile,
    clip_path: str | Path | None = None,
    without: Collection[str] = (),
) -> LoadReport:
    """Load a CLIPSeg file of any kind into a model that holds a CLIPSeg.

    Args:
        model: receives the weights.
        path: the file.
        state: its tensors.
        file: what :func:`recognise` found, or ``OWN``.
        clip_path: CLIP weights for a file that holds a decoder only.
        without: names of the model's tensors that no CLIPSeg has.

    Raises:
        CheckpointError: also if ``clip_path`` is given or absent where it should not be.
    """
    decoder_only = file is _TIMOJL
    if decoder_only and clip_path is None:
        raise CheckpointError(f"{path} holds CLIPSeg's decoder only; give OpenAI's CLIP ViT-B/16 as clip_weights too")
    if not decoder_only:
        refuse_beside(clip_path, f"{path} ({file.kind})", "clip_weights")
    absent = tuple(name for name in model.state_dict() if name in without or file.lacks(name))
    report = load_strictly(model, state, path, file.kind, names=file.names, drop=file.drop, without=absent)
    if decoder_only:
        left = tuple(name for name in absent if not name.startswith("clip."))
        report = replace(report + load_clip_into(model.clip, clip_path), kind=file.kind, initialised=left)
    return report


def query_size(state: State) -> QuerySize:
    """Hyper-parameters of a released CLIPSeg or PartCLIPSeg file, as seen from two tensors."""
    plain = any(name.endswith(("transposed_convolution.weight", "trans_conv.weight")) for name in state)
    widths = [len(tensor) for name, tensor in state.items() if name.endswith("film_mul.bias")]
    return replace(RELEASED, refined=not plain, reduce_dim=widths[0] if widths else RELEASED.reduce_dim)


def recognise(state: State, source: str) -> QueryFile:
    """Which of the three kinds of released CLIPSeg files this is.

    Args:
        state: the file's tensors.
        source: the file, for messages.

    Raises:
        CheckpointError: none of them.
    """
    for file in (_FINE_TUNED, _HUB, _TIMOJL):
        if any(name.startswith(file.marks) for name in state):
            return file
    raise CheckpointError(f"{source} is no CLIPSeg checkpoint of a known kind; its first tensors: {list(state)[:5]}")


def is_dead(name: str) -> bool:
    """Whether a tensor of OV-PARTS' checkpoints, or of those derived from them, has no effect."""
    return is_position_ids(name) or name.partition(".")[2].startswith(DEAD)


OWN = QueryFile("ovparts weights", (), dict)
_FINE_TUNED = QueryFile("OV-PARTS fine-tuned checkpoint", (FINE_TUNED_PREFIX,), fine_tuned_names, is_dead)
_HUB = QueryFile("hub model", ("decoder.",), hub_names, is_position_ids, lambda name: name.startswith(ADAPTERS))
_TIMOJL = QueryFile(
    "timojl/clipseg decoder",
    ("film_mul.", "trans_conv.", "blocks."),
    timojl_names,
    lambda name: name.startswith("reduce."),
    lambda name: not name.startswith("decoder."),
)

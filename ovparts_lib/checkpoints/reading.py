"""Safe reading of weight files, and strict loading into a module.

Files from the internet are data: nothing here executes what a file asks for. Pickles are read with PyTorch's
``weights_only`` unpickler, TorchScript archives without their code.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ovparts_lib.checkpoints.array_pickle import is_array_pickle, read_array_pickle
from ovparts_lib.checkpoints.torchscript import is_torchscript, read_torchscript

BROUGHT = {"clip_weights": "CLIP", "guidance_weights": "guidance backbone"}
RUN_WEIGHTS = "weights.safetensors"
HUB_WEIGHTS = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
# our names and the released ones, by family
NAMES = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
WRAPPERS = ("model", "state_dict", "model_state_dict")
# What DistributedDataParallel, torch.compile and Lightning put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# numpy's module of this name moved between versions 1 and 2; pickles name either
_NUMPY_SCALARS = [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
_SAFE_GLOBALS = [*_NUMPY_SCALARS, np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]

_MOST_PACKED = 4  # TorchScript's code is packed, its numbers are not

State = Mapping[str, Tensor]


class CheckpointError(RuntimeError):
    """A weight file cannot be read, or does not fit the model; the message names the file and the reason."""


@dataclass(frozen=True)
class LoadReport:
    """What happened to every tensor of a file and of a model.

    Attributes:
        source: the file or files.
        kind: which family of checkpoints it was recognised as.
        loaded: names, in the file, of the tensors that are now in the model.
        dropped: names, in the file, of tensors the model has no use for, all of them expected.
        initialised: names, in the model, of parameters this kind of file lacks; they keep their initial values.
    """

    source: str
    kind: str
    loaded: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()

    def __add__(self, other: LoadReport) -> LoadReport:
        """Of two files that went into one model."""
        names = {key: getattr(self, key) + getattr(other, key) for key in ("loaded", "dropped", "initialised")}
        return LoadReport(f"{self.source} and {other.source}", f"{self.kind} and {other.kind}", **names)

    def __str__(self) -> str:
        """One line, as notebooks print it."""
        lines = [f"{self.kind} from {self.source}: {len(self.loaded)} tensors loaded"]
        if self.dropped:
            lines.append(f"not needed: {_some(self.dropped)}")
        if self.initialised:
            lines.append(f"left at their initial values: {_some(self.initialised)}")
        return "; ".join(lines)


def weights_file(path: str | Path) -> Path:
    """The file that holds the weights: ``path`` itself, or what a folder in the hub's layout or a run folder holds.

    Raises:
        CheckpointError: nothing there, a folder without a known weight file, or a run that has no weights yet.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        for name in (RUN_WEIGHTS, *HUB_WEIGHTS):
            if (path / name).is_file():
                return path / name
        if (path / "params.yaml").is_file():
            raise CheckpointError(f"{path} is a run folder without {RUN_WEIGHTS}: finish that run first")
        raise CheckpointError(f"{path} holds none of {', '.join(HUB_WEIGHTS)}; give the weight file itself")
    if not path.is_file():
        raise CheckpointError(f"no such weight file: {path}")
    return path


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file, by name, on the CPU.

    Reads safetensors, PyTorch's files (``.pth``, ``.pt``, ``.bin``; the state dict may be wrapped under ``model`` or
    ``state_dict``, with an optimiser and counters beside it), detectron2's pickles of arrays, TorchScript archives,
    folders in the hub's layout, and folders of finished runs. The content decides, not the suffix. Prefixes that
    wrappers of models put before all names (``module.``, ``model.``, ``_orig_mod.``) are left out.

    Raises:
        CheckpointError: missing, empty, truncated, foreign or packed file, a pickle that wants to execute something, or
            tensors that are not dense numbers in memory.
    """
    path = weights_file(path)
    try:
        kind = _sniff(path)
        if kind == "safetensors":
            return _unwrapped(load_file(path), path)
        if kind == "torchscript":
            return _dense(read_torchscript(path), path)
        if kind == "arrays":
            return _unwrapped(_state_dict(read_array_pickle(path), path), path)
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip" or None)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a reader stumbles over in bytes that nobody vouches for
        if isinstance(error, OSError) and error.errno:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        lines = [line.strip()[:200] for line in str(error).splitlines()] or [type(error).__name__]
        refused = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
        if not refused or not isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(f"{path} is damaged or truncated; fetch it again ({lines[0]})") from error
        raise CheckpointError(
            f"{path} was not loaded: it holds more than tensors and numbers, and reading the rest could execute code. "
            f"({refused[0]}) If you trust its origin, convert it with its own tools to a plain state dict."
        ) from error
    return _unwrapped(_dense(_state_dict(content, path), path), path)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a weight file, 64 hexadecimal digits; for a folder, of the weight file that would be read."""
    with weights_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_strictly(
    module: nn.Module,
    state: State,
    source: str | Path,
    kind: str = "weights",
    *,
    names: Callable[[State], State] = dict,
    drop: Callable[[str], bool] = lambda name: False,
    without: Collection[str] = (),
) -> LoadReport:
    """Copy a file's tensors into a module; every name, shape and kind of number must agree.

    Args:
        module: receives the weights, in its own dtype and on its own device.
        state: the file's tensors.
        source: the file, for messages.
        kind: what the file was recognised as, for the report.
        names: the module's state dict as the file would call and cut it. It must return views of its argument's
            tensors (renamed, sliced, transposed): the file's values are written through them.
        drop: whether a name of the file is known to be useless.
        without: names of the module that this kind of file does not have; they keep their values.

    Raises:
        CheckpointError: the file lacks tensors, has unknown ones, has some of another shape, whole numbers where the
            model has fractions or the reverse, or some with NaN or infinity; all are counted and the first are named,
            as the file calls them. The module is then unchanged.
    """
    own = module.state_dict()
    targets = names({name: tensor for name, tensor in own.items() if name not in without})
    dropped = tuple(name for name in state if name not in targets and drop(name))
    missing = [name for name in targets if name not in state]
    unexpected = [name for name in state if name not in targets and name not in dropped]
    shared = {name: (state[name], target) for name, target in targets.items() if name in state}
    misshapen = [f"{name} is {differs}" for name, pair in shared.items() if (differs := _difference(*pair))]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(problems.values()):
        details = "; ".join(f"{len(some)} {what}: {_some(some)}" for what, some in problems.items() if some)
        raise CheckpointError(f"{source} ({kind}) does not fit the model: {details}")
    # In the model's own type, in which a large number of a wider one is infinite.
    spoilt = [name for name, (given, target) in shared.items() if not given.to(target.dtype).isfinite().all()]
    if spoilt:
        raise CheckpointError(
            f"{source} ({kind}) holds NaN or infinity in {_some(spoilt)}; such weights are the "
            "result of a training that diverged, or of a damaged file: take an earlier checkpoint, or fetch it again"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])
    return LoadReport(str(source), kind, tuple(targets), dropped, tuple(without))


def renaming(rules: Sequence[tuple[str, str]]) -> Callable[[State], dict[str, Tensor]]:
    """A function from a state dict, or any part of it, or gradients of the same names, to views under other names.

    Args:
        rules: regular expressions and what takes their place, applied to every name in this order.
    """

    def renamed(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return lambda state: {renamed(name): tensor for name, tensor in state.items()}


def _difference(given: Tensor, target: Tensor) -> str:
    """How a tensor of a file differs in shape or kind of number from the model's; empty if it does not."""
    if given.shape != target.shape:
        return f"{tuple(given.shape)} in the file, {tuple(target.shape)} in the model"
    if (given.is_floating_point(), given.is_complex()) != (target.is_floating_point(), target.is_complex()):
        file, model = (str(tensor.dtype).removeprefix("torch.") for tensor in (given, target))
        return f"{file} in the file, {model} in the model"
    return ""


def _sniff(path: Path) -> str:
    """Kind of file by its first bytes: safetensors, torchscript, zip, arrays or pickle."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"{path} is empty; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file it points to; fetch it with git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path} is a web page, not weights; the download asked for a login or a confirmation")
    if start.startswith(b"PK"):
        _refuse_foreign_zip(path)
        return "torchscript" if is_torchscript(path) else "zip"
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith(b"\x80"):
        return "arrays" if is_array_pickle(start) else "pickle"
    raise CheckpointError(f"{path} is neither safetensors, nor written by torch.save, nor a pickle of arrays")


def _refuse_foreign_zip(path: Path) -> None:
    """Refuse a zip archive that torch did not write, or that unpacks to far more than it is: torch packs no numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # damaged; the reader will say in what
        return
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise CheckpointError(f"{path} is a zip archive, but none that torch.save or TorchScript wrote")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_PACKED * path.stat().st_size + 2**20:
        raise CheckpointError(
            f"{path} unpacks to {unpacked:,} bytes, many times its size, which no file of torch does; it is not read"
        )


def _dense(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Refuse tensors that are sparse, quantised, without their numbers (on ``meta``), or larger than their storage."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = f"{tensor.layout}, {tensor.dtype} on {tensor.device.type}".replace("torch.", "")
            raise CheckpointError(f"{path}: the tensor {name} is {kind}, not dense numbers; save it as a dense tensor")
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():  # a few bytes stand for terabytes
            size = tuple(tensor.shape)
            raise CheckpointError(f"{path}: the tensor {name} of shape {size} repeats numbers; save it contiguous")
    return state


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without what wrappers put before all of them, in any order, and without torch.compile's marks."""
    names = {name: name.replace("._orig_mod.", ".") for name in state}
    while prefix := next((p for p in _PREFIXES if names and all(n.startswith(p) for n in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"{path} holds a tensor twice, with and without a prefix")
    return {names[name]: tensor for name, tensor in state.items()}


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in WRAPPERS:  # no deeper than each within another: a hostile file may hold itself
        if isinstance(content, Mapping):
            content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        kind = "a dict without entries" if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{path} holds no state dict but {kind}")
    state = {}
    for name, value in content.items():
        if isinstance(value, (int, float, np.number)):
            value = torch.tensor(value)
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} is no state dict: its entry {name!r} is of type {type(value).__name__}")
        state[name] = value
    return state


def _some(names: Collection[str], count: int = 5) -> str:
    names = list(names)
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def refuse_beside(given: object, source: object, option: str) -> None:
    """Make sure that nothing is given beside a file that has it already.

    Raises:
        CheckpointError: there is; the message names the file, what it brings and the option to leave out.
    """
    if given is not None:
        raise CheckpointError(f"{source} brings its own {BROUGHT[option]}; give no {option} with it")

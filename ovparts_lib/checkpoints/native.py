"""The workbook's own weight files: safetensors with a description, written so that a crash cannot spoil an old one."""

import contextlib
import glob
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ovparts_lib.atomic import replacing, sweep
from ovparts_lib.checkpoints.reading import CheckpointError, read_tensors, weights_file

FORMAT = "ovparts 1"
# Elements that may be made for a file: what is read, built and copied, and weights of other files beside it.
_ROOM, _SPARE = 8, 2**28


class WeightsNotSavedError(OSError):
    """Weights could not be written; a file that was there before is untouched."""


def save_weights(source: nn.Module | Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, Any]) -> Path:
    """Write a module's state, or a state dict, as safetensors: whole or not at all.

    The bytes go to a temporary file beside ``path``, reach the disk, and only then take its name.

    Args:
        source: module or state dict; tensors may be on any device.
        path: file to write; missing folders are made.
        metadata: what the file is, for example ``{"system": "clipseg", "size": {...}}``; anything JSON can say.

    Returns:
        The path.

    Raises:
        WeightsNotSavedError: no space, no permission, …
    """
    path = Path(path)
    state = source.state_dict() if isinstance(source, nn.Module) else source
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    described = {"format": FORMAT, **{key: json.dumps(value) for key, value in metadata.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, f".{glob.escape(path.name)}.*.part")
        with replacing(path) as partial:
            content = save(tensors, described)  # as bytes, so that a full disk is an OSError like any other
            with partial.open("wb") as file:
                file.write(_ordered_header(content))
                file.write(memoryview(content)[_header_end(content) :])
    except OSError as error:
        kept = "; the file that was there is unchanged" if path.exists() else ""
        raise WeightsNotSavedError(error.errno, f"weights not saved to {path}: {error.strerror}{kept}") from error
    return path


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """Metadata that :func:`save_weights` wrote into a file; None for a file of another origin.

    Raises:
        CheckpointError: no such file, or one that cannot be read.
    """
    try:
        with safe_open(weights_file(path), framework="pt") as file:
            described = file.metadata() or {}
    except SafetensorError:
        return None
    except OSError as error:  # names no file
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if described.get("format") != FORMAT:
        return None
    try:
        return {key: json.loads(value) for key, value in described.items() if key != "format"}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error}); fetch it again") from error


@contextlib.contextmanager
def within_its_file(path: str | Path) -> Iterator[None]:
    """Build inside this block what one of our own files describes: of a size that its tensors bear out.

    Raises:
        CheckpointError: the description asks for a model far larger than the file, or for one that cannot be built.
    """
    metadata = read_metadata(path)
    if metadata is None:
        yield
        return
    with safe_open(weights_file(path), framework="pt") as file:
        elements = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    try:
        with _Budget(_ROOM * elements + _SPARE, path):
            yield
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, AssertionError, MemoryError) as error:
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, ValidationError):
            told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise CheckpointError(f"{path}: its description {metadata.get('size')!r:.200} fits no model: {told}") from error


class _Budget(TorchDispatchMode):
    """Counts the elements of new tensors and stops before there are too many."""

    def __init__(self, left: int, path: str | Path) -> None:
        super().__init__()
        self.left, self.path = left, path

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if args and isinstance(args[0], list | tuple) and all(isinstance(n, int) for n in args[0]):
            self.left -= math.prod(args[0])
            if self.left < 0:
                raise CheckpointError(f"{self.path} describes a model many times larger than the file; it is not built")
        return func(*args, **(kwargs or {}))


def _header_end(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _ordered_header(content: bytes) -> bytes:
    """The header with its keys in order, so that equal weights are equal files: safetensors shuffles them."""
    header = json.dumps(json.loads(content[8 : _header_end(content)]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def load_weights(path: str | Path, system: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by :func:`save_weights`.

    Args:
        path: the file.
        system: what its metadata must say under ``system``; None for anything.

    Raises:
        CheckpointError: unreadable, of another origin, or of another system.
    """
    metadata = read_metadata(path)
    if metadata is None:
        raise CheckpointError(f"{path} was not written by this workbook")
    if system is not None and metadata.get("system") != system:
        hint = "; give it as clip_weights, for a new model" if metadata.get("system") == "clip" else ""
        raise CheckpointError(f"{path} holds weights of {metadata.get('system')!r}, not of {system!r}{hint}")
    return read_tensors(path), metadata

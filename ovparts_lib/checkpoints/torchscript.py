"""The tensors of a TorchScript archive, without the program in it.

OpenAI publishes CLIP as TorchScript. ``torch.jit.load`` would set that program up; but the archive is a zip whose
``data.pkl`` describes the module tree, with the numbers in files beside it, and reading those needs no program.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAMESAKES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Bool")
_DTYPES = {"CharStorage": torch.int8, "ByteStorage": torch.uint8}
_DTYPES |= {f"{name}Storage": getattr(torch, name.lower()) for name in _NAMESAKES}


class _ScriptedModule:
    """A node of the module tree; unpickling sets its attributes."""


class _TreeReader(pickle.Unpickler):
    """Knows modules, tensors and lists; anything else a pickle might name is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _ScriptedModule
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"Unsupported: {module}.{name}")
        return known[module, name]

    def persistent_load(self, description: tuple) -> Tensor:
        _, dtype, key, _, _ = description
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}/data/{key}")), dtype=dtype)


def is_torchscript(path: Path) -> bool:
    """Whether a zip file is a TorchScript archive: it has code or constants, which ``torch.save`` does not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a TorchScript archive, named by their place in the module tree.

    Args:
        path: the archive.

    Raises:
        pickle.UnpicklingError: its description names something other than modules and tensors.
        Exception: it is damaged, in one of the many ways an archive and a pickle can be.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("/data.pkl")
        byteorder = f"{root}/byteorder"
        if byteorder in names and archive.read(byteorder).strip() != b"little":
            raise ValueError("written on a big-endian machine")
        tree = _TreeReader(archive, root).load()
    return dict(_flatten(tree, ""))


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _flatten(module: _ScriptedModule, prefix: str) -> list[tuple[str, Tensor]]:
    if not isinstance(module, _ScriptedModule):
        raise ValueError(f"it describes no module but {type(module).__name__}")
    tensors = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors.append((f"{prefix}{name}", value))
        elif isinstance(value, _ScriptedModule):
            tensors += _flatten(value, f"{prefix}{name}.")
    return tensors

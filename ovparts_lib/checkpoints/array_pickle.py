"""Pickles of numpy arrays, in which detectron2 publishes its backbones (``R-103.pkl``), read as data.

The unpickler builds containers, numbers, strings and arrays; whatever else a pickle names is refused.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

# the number that files of torch.save before 1.6 begin with
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
# numpy's modules of these names moved between versions 1 and 2; pickles name either
_KNOWN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
}


def is_array_pickle(start: bytes) -> bool:
    """Whether a pickle with these first bytes was not written by torch."""
    return start.startswith(b"\x80") and not start.startswith(_LEGACY_TORCH)


def read_array_pickle(path: Path) -> Any:
    """What a pickle holds, with tensors in place of arrays, also inside dictionaries.

    Raises:
        pickle.UnpicklingError: damaged, or it names something that is no array; the message begins with ``GLOBAL``.
        TypeError: an array of something that is no number.
    """
    with path.open("rb") as file:
        return _as_tensors(_ArrayUnpickler(file, encoding="latin1").load())  # Python 2 wrote bytes for strings


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no array")
        return _KNOWN[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 spell bytes; no other encoding is looked up."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"GLOBAL _codecs.encode with {encoding!r} is no array")
    return text.encode(encoding)


def _as_tensors(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _as_tensors(value) for name, value in content.items()}
    return torch.from_numpy(np.array(content)) if isinstance(content, np.ndarray) else content

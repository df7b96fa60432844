"""Embeddings of texts, computed once for as long as nothing they depend on changes.

Those that take long are files, too, that several processes share: read if intact, set aside if not, written whole.
Their folder holds at most ``LIMIT`` bytes; what was used longest ago goes first.
"""

import contextlib
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovparts_lib.atomic import replacing, set_aside, sweep
from ovparts_lib.models.clip.prompted_names import encode_names
from ovparts_lib.models.clip.text import encode_text, tokenize

logger = logging.getLogger(__name__)
FORMAT = 1  # part of every file's name: raise it when what is computed changes
LIMIT = 2 * 2**30  # bytes; the largest list, 847 classes in 80 templates, takes 0.2 GB with ViT-L/14
_NAME = "embeddings"
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TextCache:
    """What lets ``predict`` take a vocabulary with every image, and training with every step.

    The key holds the texts, the templates, the autocast state, and a checksum over every bit of the text tower's
    weights. So an optimiser step, a loaded state dict, a copy through ``.data``, or a move to another device or dtype
    are all noticed, whoever made them: embeddings of an earlier tower would give wrong scores without a word (as the
    reference's do for a second vocabulary). The checksum costs one pass over the text tower, some 140 ms for ViT-B/16
    on one CPU core.

    Names in templates, which take minutes for a long list, are also kept in ``folder``, if there is one, for other
    processes; the file is found by the same key.

    Args:
        capacity: lists of texts that are remembered, the most recently used ones.
        synonyms: how names enter templates, see :func:`models.clip.prompted_names.encode_names`.
    """

    def __init__(self, capacity: int = 8, *, synonyms: bool = True) -> None:
        self.capacity, self.synonyms = capacity, synonyms
        self.folder: Path | None = None
        self._entries: OrderedDict[tuple, Tensor] = OrderedDict()

    def encode(self, clip: open_clip.CLIP, texts: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
        """Embeddings without gradient; do not write into the result.

        Returns:
            (n, embed_dim) as from :func:`models.clip.text.encode_text`; with templates (n, templates, embed_dim) as
            from :func:`models.clip.prompted_names.encode_names`.
        """

        def compute(key: tuple) -> Tensor:
            if templates is None:
                return encode_text(clip, tokenize(texts, clip.context_length))
            return self._names_in_templates(clip, key)

        what = tuple(texts), None if templates is None else tuple(templates)
        return self.recall(what, clip.positional_embedding.device, text_weights(clip), compute)

    def recall(
        self, what: tuple, device: torch.device, weights: Iterable[Tensor], compute: Callable[[tuple], Tensor]
    ) -> Tensor:
        """What ``compute(key)`` gives, without gradient; once for the same texts, device, precision and weights."""
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        key = (*what, autocast, str(device), weights_checksum(weights))
        if key not in self._entries:
            with torch.inference_mode(False), torch.no_grad():  # an ordinary tensor, so that training may use it too
                self._entries[key] = compute(key)
        self._entries.move_to_end(key)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
        return self._entries[key]

    def _names_in_templates(self, clip: open_clip.CLIP, key: tuple) -> Tensor:
        """From the file, or else encoded and written to it."""
        texts, templates, autocast, device, checksum = key
        shared = (texts, templates, self.synonyms, autocast, torch.device(device).type, checksum)
        path = None if self.folder is None else self.folder / file_name(shared)
        embeddings = None if path is None else read_embeddings(path)
        if embeddings is not None:
            return embeddings.to(device)
        embeddings = encode_names(clip, texts, templates, synonyms=self.synonyms)
        if path is not None:
            write_embeddings(path, embeddings)
        return embeddings


def weights_checksum(tensors: Iterable[Tensor]) -> tuple:
    """A checksum that changes with any single element and with the order of elements, computed on the device.

    The bits are read as 64-bit integers (summing narrower ones takes twenty times as long) and laid out in rows of
    1024; the sums of rows and the sums of columns are added up with fixed random factors (modulo 2^64), together with
    dtypes and shapes. It is no defence against an adversary.
    """
    description, sums = [], []
    for piece in _pieces([tensor.detach() for tensor in tensors]):
        description += [(str(tensor.dtype), tuple(tensor.shape)) for tensor in piece]
        words = [tensor.flatten().view(_INTEGERS[tensor.element_size()]) for tensor in piece]
        row = 1024 * (8 // words[0].element_size())
        padding = words[0].new_zeros(-sum(map(len, words)) % row)
        table = torch.cat([*words, padding]).view(torch.int64).view(-1, 1024)
        for axis in (0, 1):
            line = table.sum(axis)
            sums.append((line * _factors(len(line), line.device)).sum())
    return (*description, *torch.stack(sums).tolist())


def _pieces(tensors: Sequence[Tensor], size: int = 2**22) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one element size, about ``size`` elements at a time: few kernels, little memory."""
    ends = accumulate(tensor.numel() for tensor in tensors)
    for _, piece in groupby(zip(tensors, ends, strict=True), lambda each: (each[0].element_size(), each[1] // size)):
        yield [tensor for tensor, _ in piece]


@lru_cache(maxsize=64)
def _factors(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    odd = torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1  # odd, hence invertible mod 2^64
    return odd.to(device)


def text_weights(clip: open_clip.CLIP) -> list[Tensor]:
    """The weights that embeddings of texts depend on."""
    blocks = clip.transformer.resblocks.parameters()
    head = [clip.ln_final.weight, clip.ln_final.bias, clip.text_projection]
    return [clip.token_embedding.weight, clip.positional_embedding, *blocks, *head]


def file_name(key: tuple[Any, ...]) -> str:
    """The file of what embeddings depend on: texts, templates, precision, device, and the checksum of the weights."""
    return f"{hashlib.sha256(repr((FORMAT, *key)).encode()).hexdigest()[:40]}.safetensors"


def read_embeddings(path: Path) -> Tensor | None:
    """The embeddings of a file, on the CPU; None if there is none, or it was damaged, and then set aside."""
    try:
        with safe_open(path, "pt") as file:
            embeddings, stated = file.get_tensor(_NAME), (file.metadata() or {}).get("sha256")
        if stated == _digest(embeddings):
            with contextlib.suppress(OSError):
                os.utime(path)  # used now, which many file systems do not record of reading
            return embeddings
        damage = "its content has changed"
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        damage = str(error)
    try:
        set_aside(path, damage)
    except OSError as error:  # another process was first, or the folder cannot be written
        logger.warning("%s is damaged (%s) and cannot be set aside (%s)", path, damage, error)
    return None


def write_embeddings(path: Path, embeddings: Tensor) -> None:
    """Write a file as a whole; where that is impossible, say so in the log and go on without."""
    embeddings = embeddings.detach().cpu().contiguous()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, ".*.part")
        with replacing(path) as partial:
            save_file({_NAME: embeddings}, partial, {"sha256": _digest(embeddings)})
        _remove_above_limit(path.parent)
    except (OSError, SafetensorError) as error:
        logger.warning("cannot keep text embeddings in %s (%s); they will be computed again", path.parent, error)


def _remove_above_limit(folder: Path) -> None:
    files = [(file, file.stat()) for file in folder.iterdir() if file.suffix in (".safetensors", ".damaged")]
    kept = 0
    for file, status in sorted(files, key=lambda pair: pair[1].st_mtime_ns, reverse=True):
        kept += status.st_size
        if kept > LIMIT:
            file.unlink(missing_ok=True)


def _digest(embeddings: Tensor) -> str:
    return hashlib.sha256(memoryview(embeddings.numpy()).cast("B")).hexdigest()

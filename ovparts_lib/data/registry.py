"""The part datasets by name: how each is opened and verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ovparts_lib.data.ade20k_part_234_checks import verify_ade20k_part_234
from ovparts_lib.data.partimagenet_checks import verify_partimagenet_ood, verify_partimagenet_seg
from ovparts_lib.data.pascal_part_116_checks import verify_pascal_part_116
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.readers.partimagenet import PartImageNetOOD, PartImageNetSeg
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.records import Reader
from ovparts_lib.data.verification_report import VerificationReport


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset.

    Attributes:
        title: what people call it.
        reader: its reader, called with the folder and options.
        verify: its integrity check, called likewise.
        folder: its folder below ``datasets`` in the released code.
    """

    title: str
    reader: Callable[..., Reader]
    verify: Callable[..., VerificationReport]
    folder: str


# The names are those of the vocabularies.
READERS: dict[str, DatasetEntry] = {
    "pascal_part_116": DatasetEntry("Pascal-Part-116", PascalPart116, verify_pascal_part_116, "PascalPart116"),
    "ade20k_part_234": DatasetEntry("ADE20K-Part-234", ADE20KPart234, verify_ade20k_part_234, "ADE20KPart234"),
    "partimagenet_seg": DatasetEntry("PartImageNet (Seg)", PartImageNetSeg, verify_partimagenet_seg, "PartImageNet"),
    "partimagenet_ood": DatasetEntry(
        "PartImageNet (OOD)", PartImageNetOOD, verify_partimagenet_ood, "PartImageNet_OOD"
    ),
}


def open_reader(dataset: str, root: str | Path, **options: Any) -> Reader:
    """The reader of a dataset.

    Args:
        dataset: a name in ``READERS``.
        root: the dataset's folder.
        **options: of its reader, such as ``cache_folder`` and ``progress``.

    Raises:
        ValueError: no such dataset.
        DatasetError: ``root`` is not the dataset.
    """
    return find_dataset(dataset).reader(root, **options)


def verify_dataset(dataset: str, root: str | Path, **options: Any) -> VerificationReport:
    """Read every file of a dataset once and report what is wrong; see :func:`ovparts_lib.data.verify.verify`.

    Args:
        dataset: a name in ``READERS``.
        root: the dataset's folder.
        **options: of its check: ``cache_folder`` and ``progress``.

    Raises:
        ValueError: no such dataset.
    """
    return find_dataset(dataset).verify(root, **options)


def find_dataset(dataset: str) -> DatasetEntry:
    """The entry of ``READERS``. Raises ValueError naming the nearest and all datasets there are."""
    if dataset in READERS:
        return READERS[dataset]
    near = get_close_matches(dataset, READERS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"no dataset {dataset!r}{hint}; there are {', '.join(READERS)}")

"""Every dataset once: its names, folder and splits, and how it is opened and verified. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ovparts_lib.data.readers.base import Reader
    from ovparts_lib.data.verification_report import VerificationReport


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset.

    Attributes:
        name: of the dataset and its vocabulary.
        title: what people call it.
        folder: its folder below ``datasets`` in the released code.
        kind: ``parts``: object and part labels; ``semantic``: one label map of whole objects and stuff;
            ``own``: a user's data, either kind by its class list.
        reader: module and class of its reader, below ``ovparts_lib.data.readers``.
        train_splits: splits to train on.
        test_splits: splits to evaluate on.
        other_splits: splits to look at.
    """

    name: str
    title: str
    folder: str
    kind: Literal["parts", "semantic", "own"]
    reader: str
    train_splits: tuple[str, ...]
    test_splits: tuple[str, ...]
    other_splits: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits."""
        return self.train_splits + self.test_splits + self.other_splits

    def open(self, root: str | Path, **options: Any) -> Reader:
        """Its reader. Raises DatasetError: ``root`` is no folder."""
        module, _, name = self.reader.partition(":")
        if self.kind == "semantic":
            options["name"] = self.name
        return getattr(import_module(f"ovparts_lib.data.readers.{module}"), name)(root, **options)


_TRAIN = ("train", "train_obj_condition", "train_few_shot")
_TRAIN_ALL = ("train", "train_obj_condition", "train_all", "train_few_shot")
_TEST = ("val_obj_condition",)
_TEST_FEW_SHOT = ("val_obj_condition", "val_few_shot")


def _parts(name: str, title: str, folder: str, reader: str, *splits: tuple[str, ...]) -> DatasetEntry:
    return DatasetEntry(name, title, folder, "parts", reader, *splits)


def _semantic(name: str, title: str, folder: str, train_splits: tuple[str, ...] = ()) -> DatasetEntry:
    return DatasetEntry(name, title, folder, "semantic", "semantic:SemanticReader", train_splits, ("val",))


_ENTRIES = (
    _parts(
        "pascal_part_116", "Pascal-Part-116", "PascalPart116", "pascal_part_116:PascalPart116", _TRAIN, _TEST, ("val",)
    ),
    _parts(
        "ade20k_part_234", "ADE20K-Part-234", "ADE20KPart234", "ade20k_part_234:ADE20KPart234", _TRAIN, _TEST_FEW_SHOT
    ),
    _parts("partimagenet_seg", "PartImageNet (Seg)", "PartImageNet", "partimagenet:PartImageNetSeg", _TRAIN_ALL, _TEST),
    _parts(
        "partimagenet_ood", "PartImageNet (OOD)", "PartImageNet_OOD", "partimagenet:PartImageNetOOD", _TRAIN_ALL, _TEST
    ),
    _semantic("coco_stuff_171", "COCO-Stuff-171", "coco", train_splits=("train",)),
    _semantic("ade20k_150", "ADE20K-150", "ADEChallengeData2016", train_splits=("train",)),
    _semantic("ade20k_847", "ADE20K-847", "ADE20K_2021_17_01", train_splits=("train",)),
    _semantic("pascal_context_59", "Pascal Context 59", "VOCdevkit/VOC2010"),
    _semantic("pascal_context_459", "Pascal Context 459", "VOCdevkit/VOC2010"),
    _semantic("pascal_voc_20", "Pascal VOC 20", "VOCdevkit/VOC2012"),
    DatasetEntry("own", "Own data", "own", "own", "own:open_own", _TRAIN[:2], ("val", *_TEST), ("train_few_shot",)),
)
DATASETS: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
PREPARED = ("ade20k_part_234", *(entry.name for entry in _ENTRIES if entry.kind == "semantic"))
"""Those whose label files are made from an official archive; the others are read as they are distributed."""


def open_reader(dataset: str, root: str | Path, **options: Any) -> Reader:
    """The reader of a dataset.

    Args:
        dataset: a name in ``DATASETS``.
        root: the dataset's folder.
        **options: of its reader, such as ``cache_folder`` and ``progress``.

    Raises:
        ValueError: no such dataset.
        DatasetError: ``root`` is not the dataset.
    """
    return find_dataset(dataset).open(root, **options)


def verify_dataset(dataset: str, root: str | Path, **options: Any) -> VerificationReport:
    """Read every file of a dataset once and report what is wrong; see :func:`ovparts_lib.data.verify.verify`.

    Args:
        dataset: a name in ``DATASETS``.
        root: the dataset's folder.
        **options: of its reader, such as ``cache_folder`` and ``progress``.

    Raises:
        ValueError: no such dataset.
    """
    from ovparts_lib.data.verify import verify

    entry = find_dataset(dataset)
    return verify(entry.title, root, lambda: entry.open(root, **options))


def find_dataset(dataset: str) -> DatasetEntry:
    """The entry of ``DATASETS``. Raises ValueError naming the nearest and all datasets there are."""
    if dataset in DATASETS:
        return DATASETS[dataset]
    near = get_close_matches(dataset, DATASETS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"no dataset {dataset!r}{hint}; there are {', '.join(DATASETS)}")

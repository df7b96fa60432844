"""Every dataset once: its names, folder and splits, and how it is opened and verified. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ovparts_lib.data.readers.base import Reader
    from ovparts_lib.data.verification_report import VerificationReport

SHOTS_FILE = "train_16shot.json"


@dataclass(frozen=True)
class Split:
    """How a split is listed.

    Attributes:
        folder: ``train`` or ``val``.
        use: ``training``, ``evaluation``, or nothing for a split to look at.
        conditioned: one record per object of an image, or per instance, rather than per image.
        few_shot: only the images of the 16-shot list.
        seen_only: trained with seen classes only.
        unseen_of_training: after its own records, every instance of an unseen object in the training images
            (ADE20K-Part-234).
        without_shots: of these training images, leave out those of the 16-shot list.
    """

    folder: str
    use: Literal["training", "evaluation", ""] = ""
    conditioned: bool = False
    few_shot: bool = False
    seen_only: bool = False
    unseen_of_training: bool = False
    without_shots: bool = False


@dataclass(frozen=True)
class Files:
    """Where one kind of file lies.

    Attributes:
        folder: below the dataset's folder; that of a split is inside.
        suffixes: in lower case.
    """

    folder: str
    suffixes: tuple[str, ...]


@dataclass(frozen=True)
class SemanticFolder:
    """Where a split of an object-level benchmark lies.

    Attributes:
        images: folder of the pictures, which may hold more than the split's.
        labels: folder of the label files.
        listed: file with the base names of the split; all label files are its own if there is none.
    """

    images: str
    labels: str
    listed: str = ""


@dataclass(frozen=True)
class Published:
    """Number of images in ``train`` or ``val`` according to its authors.

    Attributes:
        images: how many.
        source: where it stands, in a few words.
    """

    images: int
    source: str


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset, as ``datasets.json`` states it.

    Attributes:
        name: of the dataset and its vocabulary.
        title: what people call it.
        folder: its folder below ``datasets`` in the released code.
        kind: ``parts``: object and part labels; ``semantic``: one label map of whole objects and stuff;
            ``own``: a user's data, either kind by its class list.
        reader: module and class of its reader, below ``ovparts_lib.data.readers``.
        layout: what the folder holds, in half a sentence.
        settings: how each split is listed.
        folders: name on disk of ``train`` and ``val``.
        kinds: the kinds of files (``image``, ``object``, ``part``) that each image has one of.
        places: instead of ``folders`` and ``kinds``, where the splits of an object-level benchmark lie.
        official: where its authors' archive has label files in PNG, from which those of ``places`` are derived.
        published: image counts of ``train`` and ``val`` where the authors state them.
    """

    name: str
    title: str
    folder: str
    kind: Literal["parts", "semantic", "own"]
    reader: str
    layout: str
    settings: Mapping[str, Split]
    folders: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    kinds: Mapping[str, Files] = field(default_factory=dict)
    places: Mapping[str, SemanticFolder] = field(default_factory=dict)
    official: Mapping[str, SemanticFolder] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)

    def splits(self, use: Literal["training", "evaluation"]) -> tuple[str, ...]:
        """Names of the splits to train or to evaluate on."""
        return tuple(name for name, split in self.settings.items() if split.use == use)


def _read_datasets() -> dict[str, DatasetEntry]:
    table = json.loads(files(__package__).joinpath("datasets.json").read_text(encoding="utf-8"))
    values = {"settings": Split, "kinds": Files, "published": Published}
    values |= dict.fromkeys(("places", "official"), SemanticFolder)
    for stated in table.values():
        for key in values.keys() & stated.keys():
            stated[key] = {name: values[key](**value) for name, value in stated[key].items()}
    return {name: DatasetEntry(name, **stated) for name, stated in table.items()}


DATASETS = _read_datasets()
PREPARED = ("ade20k_part_234", *(name for name, entry in DATASETS.items() if entry.kind == "semantic"))
"""Those whose label files are made from an official archive; the others are read as they are distributed."""


def open_reader(dataset: str, root: str | Path, **options: Any) -> "Reader":
    """The reader of a dataset.

    Args:
        dataset: a name in ``DATASETS``.
        root: the dataset's folder.
        **options: of its reader, such as ``cache_folder`` and ``progress``.

    Raises:
        ValueError: no such dataset.
        DatasetError: ``root`` is not the dataset.
    """
    entry = find_dataset(dataset)
    module, _, name = entry.reader.partition(":")
    given = {"name": dataset} if entry.kind == "semantic" else {}
    return getattr(import_module(f"ovparts_lib.data.readers.{module}"), name)(root, **given, **options)


def verify_dataset(dataset: str, root: str | Path, **options: Any) -> "VerificationReport":
    """Read every file of a dataset once and report what is wrong; see :func:`ovparts_lib.data.verify.verify`.

    Args:
        dataset: a name in ``DATASETS``.
        root: the dataset's folder.
        **options: of its reader, such as ``cache_folder`` and ``progress``.

    Raises:
        ValueError: no such dataset.
    """
    from ovparts_lib.data.verify import verify

    return verify(find_dataset(dataset).title, root, lambda: open_reader(dataset, root, **options))


def find_dataset(dataset: str) -> DatasetEntry:
    """The entry of ``DATASETS``. Raises ValueError naming the nearest and all datasets there are."""
    if dataset in DATASETS:
        return DATASETS[dataset]
    near = get_close_matches(dataset, DATASETS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"no dataset {dataset!r}{hint}; there are {', '.join(DATASETS)}")

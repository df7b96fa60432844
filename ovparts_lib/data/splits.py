"""Where the files of a dataset lie, and how its splits are listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ovparts_lib.data.files import read_json
from ovparts_lib.data.records import DatasetError

SHOTS_FILE = "train_16shot.json"


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
class Split:
    """How a split is listed.

    Attributes:
        folder: ``train`` or ``val``.
        conditioned: one record per object of an image, or per instance, rather than per image.
        few_shot: only the images of the 16-shot list.
        seen_only: trained with seen classes only.
    """

    folder: str
    conditioned: bool = False
    few_shot: bool = False
    seen_only: bool = False


def read_shot_list(path: Path, folder: str, title: str) -> set[str]:
    """Base names of the training images in a released 16-shot list.

    Entries are matched by the folder of their split and base name: the paths in the list only fit the place where its
    authors kept the data.

    Args:
        path: the list.
        folder: name of the folder of training pictures.
        title: of the dataset, for messages.

    Raises:
        DatasetError: the list is missing or not a JSON list of ``{"file_name": ...}``.
    """
    again = "Download the 16-shot list again."
    entries = read_json(
        path,
        f"Few-shot training needs the 16-shot list released with {title}; put it there, or draw one "
        "(ovparts_lib.data.few_shot).",
        again,
    )
    try:
        names = [PurePosixPath(str(entry["file_name"]).replace("\\", "/")) for entry in entries]
    except (KeyError, TypeError) as error:
        what = f"is not a JSON list of objects with a file_name ({type(error).__name__}: {error})"
        raise DatasetError(what, file=path, what_to_do=again) from error
    return {name.stem for name in names if _split_folder(name) in ("", folder)}


def _split_folder(name: PurePosixPath) -> str:
    """Folder of the split in an entry: the file's own, or the one above where each ImageNet class has a folder."""
    own = name.parent
    return own.parent.name if own.name and name.stem.startswith(f"{own.name}_") else own.name

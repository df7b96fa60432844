"""Few-shot lists: reading released ones, and drawing k images a class from any dataset.

How the released 16 shots were drawn is not published. The rule here, which lists made by it can be repeated from:

1. The classes are the objects that have parts, in alphabetical order.
2. The candidates of a class are the training images in which a pixel of any of its parts is labelled, sorted by image
   id, so that the order of files does not matter.
3. One random stream, numpy's ``default_rng([seed, shots])``, permutes the candidates of one class after the other; the
   first ``shots`` of each permutation are the class's shots.
4. The list is the union. An image that shows several classes may be drawn for each of them; a frequent class (person)
   therefore occurs in more images of the list than ``shots``, a rare one never in fewer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ovparts_lib.data.files import DatasetError, read_json

if TYPE_CHECKING:
    from ovparts_lib.data.readers.base import Reader


@dataclass(frozen=True)
class ShotList:
    """Images drawn for few-shot training.

    Attributes:
        shots: images wanted for each class.
        drawn: for each class, in the order of the draw, the ids of its images, sorted.
    """

    shots: int
    drawn: dict[str, tuple[str, ...]]

    @property
    def image_ids(self) -> tuple[str, ...]:
        """All images of the list, each once, sorted."""
        return tuple(sorted({image_id for ids in self.drawn.values() for image_id in ids}))

    @property
    def shortfalls(self) -> dict[str, int]:
        """Classes with fewer images than wanted, and how many they have."""
        return {name: len(ids) for name, ids in self.drawn.items() if len(ids) < self.shots}

    def to_frame(self) -> pd.DataFrame:
        """One row per class: ``class``, ``images`` drawn for it, how many are ``missing``."""
        images = pd.Series({name: len(ids) for name, ids in self.drawn.items()}, name="images")
        return images.rename_axis("class").reset_index().assign(missing=self.shots - images.to_numpy())


def draw_from(candidates: Mapping[str, Iterable[str]], shots: int, seed: int) -> ShotList:
    """Draw up to ``shots`` image ids a class; see the module's rule (steps 2 to 4).

    Args:
        candidates: image ids of each class, in any order; the order of the classes counts.
        shots: at least 1.
        seed: at least 0.
    """
    rng = np.random.default_rng([seed, shots])
    drawn = {}
    for name, image_ids in candidates.items():
        order = rng.permutation(sorted(set(image_ids)))[:shots]
        drawn[name] = tuple(sorted(str(image_id) for image_id in order))
    return ShotList(shots, drawn)


def draw_shots(reader: "Reader", shots: int, seed: int = 0) -> ShotList:
    """Draw a few-shot list from a dataset's ``few_shot_source``, its training images; see the module's rule.

    A class with fewer images than ``shots`` gets all there are; ``ShotList.shortfalls`` names it.

    Args:
        reader: the dataset on disk.
        shots: images of each object that has parts.
        seed: other seeds draw other images.
    """
    vocabulary, counts = reader.vocabulary, reader.scan(reader.few_shot_source)
    images = dict.fromkeys(record.image_id for record in reader.records(reader.few_shot_source))
    parts = {name: vocabulary.parts_of(vocabulary.object_id(name)) for name in vocabulary.objects_with_parts}
    candidates = {
        name: [image_id for image_id in images if counts.has_part(image_id, part_ids)]
        for name, part_ids in parts.items()
    }
    return draw_from(candidates, shots, seed)


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
    advice = f"Few-shot training needs the 16-shot list released with {title}; put it there, or draw one (shots: 16)."
    entries = read_json(path, advice)
    try:
        names = [PurePosixPath(str(entry["file_name"]).replace("\\", "/")) for entry in entries]
    except (KeyError, TypeError) as error:
        what = f"is not a JSON list of objects with a file_name ({type(error).__name__}: {error})"
        raise DatasetError(path, what) from error
    return {name.stem for name in names if _split_folder(name) in ("", folder)}


def _split_folder(name: PurePosixPath) -> str:
    """Folder of the split in an entry: the file's own, or the one above where each ImageNet class has a folder."""
    own = name.parent
    return own.parent.name if own.name and name.stem.startswith(f"{own.name}_") else own.name

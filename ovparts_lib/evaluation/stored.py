"""What an evaluation keeps: counts from which every protocol, interval and rate is computed afterwards."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from ovparts_lib.atomic import replacing
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

FORMAT = 2
DEFAULT_OPTIONS = "default"
_FILE = "matrices.npz"
# Arrays that each mode has one of: what their names in the file begin with, and the attribute.
_BY_MODE = {"boundary": "boundary", "label_difference": "boundary_released"}
_FACTS = ("records", "skipped_records", "dataset_images", "level", "options", "weights", "image_ids")


class MatrixFileError(ValueError):
    """A file of confusion matrices is unreadable, not int64, of an unexpected shape, or of another vocabulary."""


@dataclass
class Evaluation:
    """Counts from which every protocol is computed.

    The matrices of parts hold, for each record, the labelled pixels of its object with their predictions. Unlabelled
    pixels of a record are not predicted pixel by pixel: all of them are counted at [N, N], as background predicted
    where nothing is labelled, which is what the released evaluators force them to. What a system paints on known
    background is kept apart, in ``background``.

    Attributes:
        per_image: a confusion matrix per mode and image, int64 (N+1, N+1), summed over the image's records (rows
            predictions, columns ground truth).
        image_ids: names of the images, in the order of ``per_image``.
        records: (image, object) records counted; images for an evaluation of objects.
        skipped_records: records left out because they have no part pixel, up to the last of the ``images``.
        dataset_images: images in the dataset; more than ``images`` when the evaluation was limited.
        vocabulary: what the ids mean; of a part dataset that is evaluated over objects its ``whole_objects``.
        level: ``parts`` or ``objects``: what the classes of the matrices are; each protocol is for one of them.
        background: per image, what a system predicts in ``pred_all`` on pixels known to show no object of any kind
            (all of them have target N), each pixel once per image; None where it was not scored.
        boundary: per mode, boundary pixels of each class, int64 (3, N): intersection, ground truth, prediction.
        boundary_released: per mode, confusion of the released label-difference maps, int64 (N+1, N+1).
        options: how scoring differed from the default, in words; part of what makes tables comparable.
        weights: digest of the weights that were scored; empty where it was not recorded.
    """

    per_image: dict[str, ImageCounts]
    image_ids: tuple[str, ...]
    records: int
    skipped_records: int
    dataset_images: int
    vocabulary: Vocabulary
    level: str = "parts"
    background: ImageCounts | None = None
    boundary: dict[str, np.ndarray] = field(default_factory=dict)
    boundary_released: dict[str, np.ndarray] = field(default_factory=dict)
    options: str = DEFAULT_OPTIONS
    weights: str = ""

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that were scored."""
        return tuple(self.per_image)

    @property
    def images(self) -> int:
        """Number of images counted."""
        return len(self.image_ids)

    @cached_property
    def matrices(self) -> dict[str, np.ndarray]:
        """A confusion matrix per mode, int64 (N+1, N+1), summed over all images."""
        return {mode: counts.matrix() for mode, counts in self.per_image.items()}

    @property
    def class_images(self) -> np.ndarray:
        """In how many images each class is labelled, int64 (N,)."""
        counts = next(iter(self.per_image.values()))
        _, label = np.unique(counts.index[[0, 2]], axis=1)
        return np.bincount(label, minlength=counts.classes + 1)[: counts.classes]

    def identity(self, mode: str, images: str = "images", **reading: object) -> dict[str, object]:
        """What tables made of one mode state in every row, beside how the counts were read.

        Args:
            mode: of the counts.
            images: name of the column that says how many images there were.
            **reading: further columns, such as ``protocol`` and ``version``.
        """
        facts = {"vocabulary_hash": self.vocabulary.hash, "options": self.options, "records": self.records}
        return {"mode": mode, **reading, **facts, images: self.images}

    def __add__(self, other: Self) -> Self:
        """The evaluation of two disjoint shards of one dataset, in either order.

        Raises:
            ValueError: the shards differ in vocabulary, modes, level, options or in what they keep, or share an image.
        """
        if not isinstance(other, Evaluation):
            return NotImplemented
        values = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        kinds = {name: (_kind(mine), _kind(yours)) for name, (mine, yours) in values.items()}
        if differing := [f"{name}: {mine} and {yours}" for name, (mine, yours) in kinds.items() if mine != yours]:
            raise ValueError(f"evaluations of different kinds cannot be added ({'; '.join(differing)})")
        if shared := sorted(set(self.image_ids) & set(other.image_ids)):
            raise ValueError(f"evaluations that share images cannot be added: {', '.join(shared[:3])}")
        return Evaluation(**{name: _added(mine, yours) for name, (mine, yours) in values.items()})

    def save(self, folder: Path | str) -> Path:
        """Write ``matrices.npz`` (counts and the vocabulary) into a folder; returns its path."""
        path = Path(folder) / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"format": FORMAT, **{name: getattr(self, name) for name in _FACTS}}
        facts["vocabulary"] = _vocabulary_facts(self.vocabulary)
        arrays = {"facts": np.array(json.dumps(facts))}
        for prefix, name in _BY_MODE.items():
            arrays |= {f"{prefix}_{mode}": counts for mode, counts in getattr(self, name).items()}
        images = {f"image_{mode}": counts for mode, counts in self.per_image.items()}
        for name, counts in (images | ({"background": self.background} if self.background else {})).items():
            arrays |= {f"{name}_index": counts.index, f"{name}_pixels": counts.pixels}
        arrays |= {f"counts_{mode}": matrix for mode, matrix in self.matrices.items()}  # for whoever opens the file
        # An open file keeps numpy from appending ".npz" to the temporary name.
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return path

    @classmethod
    def load(cls, folder: Path | str, vocabulary: Vocabulary | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            folder: the folder, or the npz file itself.
            vocabulary: the vocabulary expected; None takes the one in the file.

        Raises:
            MatrixFileError: the file is missing, damaged, of an earlier format or of another vocabulary.
        """
        path = Path(folder)
        path = path / _FILE if path.is_dir() else path
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as error:  # whatever numpy, zipfile and zlib stumble over in a damaged file
            raise MatrixFileError(f"{path} cannot be read as an npz file of confusion matrices: {error}") from error
        try:
            facts = json.loads(str(arrays["facts"]))
            found, described = facts.pop("format", 1), facts.pop("vocabulary")
            if found != FORMAT:
                raise MatrixFileError(f"{path} is of format {found}, this version reads {FORMAT}: score again")
            stored = PartVocabulary(**described) if "parts" in described else Vocabulary(**described)
            if vocabulary is not None and stored.hash != vocabulary.hash:
                raise MatrixFileError(f"{path} belongs to the vocabulary {stored.hash}, not to {vocabulary.hash}")
            by_mode = {
                attribute: {n.removeprefix(f"{prefix}_"): a for n, a in arrays.items() if n.startswith(f"{prefix}_")}
                for prefix, attribute in _BY_MODE.items()
            }
            modes = [name.removeprefix("counts_") for name in arrays if name.startswith("counts_")]
            size = len(facts["image_ids"]), len(stored.classes)
            return cls(
                per_image={mode: _image_counts(f"image_{mode}", arrays, *size) for mode in modes},
                background=_image_counts("background", arrays, *size) if "background_index" in arrays else None,
                vocabulary=stored,
                **by_mode,
                **{name: facts[name] for name in _FACTS} | {"image_ids": tuple(facts["image_ids"])},
            )
        except MatrixFileError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MatrixFileError(f"{path} does not describe an evaluation: {error}") from error


def _kind(value: Any) -> Any:
    """What values of two evaluations have in common if they can be added."""
    if isinstance(value, dict):
        return sorted(value)
    return value.hash if isinstance(value, Vocabulary) else value if isinstance(value, str) else type(value).__name__


def _added(mine: Any, yours: Any) -> Any:
    if isinstance(mine, dict):
        return {mode: counts + yours[mode] for mode, counts in mine.items()}
    return mine if mine is None or isinstance(mine, str | Vocabulary) else mine + yours


def _image_counts(name: str, arrays: Mapping[str, np.ndarray], images: int, classes: int) -> ImageCounts:
    index, pixels = arrays[f"{name}_index"], arrays[f"{name}_pixels"]
    largest = np.array([images, classes + 1, classes + 1])[:, None]
    if pixels.dtype != np.int64:
        raise ValueError(f"{name} must hold int64 counts, not {pixels.dtype}: counts kept as floats are not exact")
    if index.shape != (3, len(pixels)) or (index < 0).any() or (index >= largest).any() or (pixels < 0).any():
        raise ValueError(f"{name} holds an image or a class that does not exist")
    return ImageCounts(images, classes, index, pixels)


def _vocabulary_facts(vocabulary: Vocabulary) -> dict[str, Any]:
    of_parts = isinstance(vocabulary, PartVocabulary)
    names = ("name", "parts", "objects", "unseen_objects") if of_parts else ("name", "classes", "unseen")
    facts = {name: getattr(vocabulary, name) for name in (*names, "ignore_label", "title")}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in facts.items()}

"""Samples of data sets of whole objects and stuff: an image with one class at each pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ovparts_lib.data.dataset import read_sample, transformed
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.readers.semantic import SemanticReader
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.released import EmptySamples


@dataclass
class ClassSample:
    """One picture of an object-level dataset with the class of every pixel; all of it is one record.

    Attributes:
        image: uint8 (3, H, W) RGB at native size.
        label_map: int64 (H, W), ids of the vocabulary's classes, ``ignore_label`` where there is none.
        image_id: base name of the picture.
    """

    image: Tensor
    label_map: Tensor
    image_id: str


class ClassTrainingDataset(Dataset):
    """Pictures with label maps of an object-level dataset, in the ids of the training vocabulary.

    Args:
        reader: an object-level dataset on disk.
        split: one of its splits.
        transform: a torchvision v2 transform of the sample.

    Attributes:
        vocabulary: the training vocabulary.
        records: what is served: images with a labelled pixel.
        skipped: number of images without one.

    Raises:
        DatasetError: nothing to train on, or a file is wrong.
    """

    def __init__(self, reader: SemanticReader, split: str, transform: Callable[[Any], Any] | None = None) -> None:
        self.reader, self.split, self.transform = reader, split, transform
        self.vocabulary = reader.training_vocabulary(split)
        self.records, unlabelled = _labelled(reader, split)
        self.skipped = len(unlabelled)
        small = np.uint8 if self.vocabulary.ignore_label <= 255 else np.int32
        self._table = reader.vocabulary.table(self.vocabulary).astype(small)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: as of :class:`TrainingDataset`, with classes in ``part_map`` and without ``object_map``."""
        record = self.records[index]
        image, label_map = read_classes(self.reader, record)
        sample = {
            "image": tv_tensors.Image(image),
            "part_map": tv_tensors.Mask(torch.from_numpy(self._table[label_map])),
        }
        return transformed(sample, self.transform) | {"image_id": record.image_id, "vocabulary": self.vocabulary}


class ClassEvaluationDataset(Dataset):
    """The images of an object-level dataset, one record each.

    Args:
        reader: an object-level dataset on disk.
        split: one of its splits.

    Attributes:
        vocabulary: the full vocabulary.
        image_ids: of the images with a labelled pixel, sorted.
        skipped_records: number of images without one.

    Raises:
        DatasetError: nothing to evaluate, or a file is wrong.
    """

    empty_samples: EmptySamples = "skip"

    def __init__(self, reader: SemanticReader, split: str = "val") -> None:
        self.reader, self.split, self.vocabulary = reader, split, reader.vocabulary
        self.records, self._unlabelled = _labelled(reader, split)
        self.skipped_records = len(self._unlabelled)
        self.image_ids = tuple(record.image_id for record in self.records)

    def __len__(self) -> int:
        return len(self.records)

    def skipped_among(self, images: int) -> int:
        """As :meth:`EvaluationDataset.skipped_among`."""
        if images >= len(self):
            return self.skipped_records
        return sum(image_id <= self.image_ids[images - 1] for image_id in self._unlabelled)

    def __getitem__(self, index: int) -> ClassSample:
        """The image at ``index``. Raises DatasetError when a file is wrong."""
        record = self.records[index]
        image, label_map = read_classes(self.reader, record)
        return ClassSample(image, torch.from_numpy(label_map.astype(np.int64)), record.image_id)


def _labelled(reader: SemanticReader, split: str) -> tuple[list[Record], list[str]]:
    """The records of a split that have a labelled pixel, and the images that have none."""
    listed, classes = reader.records(split), range(len(reader.vocabulary.classes))
    records = [record for record in listed if reader.scan(split).has_part(record.image_id, classes)]
    if not records:
        raise DatasetError(f"split {split!r} of {reader.title} has no image with a label", file=reader.root)
    kept = {record.image_id for record in records}
    return records, [record.image_id for record in listed if record.image_id not in kept]


def read_classes(reader: Reader, record: Record) -> tuple[Tensor, np.ndarray]:
    """Picture uint8 (3, H, W) and class of every pixel (H, W), a part or a whole object, as :func:`read_sample`."""
    image, *label_maps = read_sample(reader, record)
    return image, label_maps[-1]

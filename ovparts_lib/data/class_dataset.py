"""Samples of data sets of whole objects and stuff: an image with one class at each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ovparts_lib.data.dataset import EmptySamples, read_sample
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.readers.semantic import SemanticReader
from ovparts_lib.data.records import DatasetError, Record


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
        listed, classes = reader.records(split), range(len(self.vocabulary.classes))
        self.records = [record for record in listed if reader.has_part(split, record, classes)]
        if not self.records:
            raise DatasetError(f"split {split!r} of {reader.title} has no image with a label", file=reader.root)
        self._unlabelled = {record.image_id for record in listed} - {record.image_id for record in self.records}
        self.skipped_records = len(listed) - len(self.records)
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


def read_classes(reader: Reader, record: Record) -> tuple[Tensor, np.ndarray]:
    """Picture uint8 (3, H, W) and class of every pixel (H, W), a part or a whole object, as :func:`read_sample`."""
    image, *label_maps = read_sample(reader, record)
    return image, label_maps[-1]

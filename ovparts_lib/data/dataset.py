"""Samples for training and evaluation, from any reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ovparts_lib.data.labels import check_same_size, read_image
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.released import EmptySamples, ReleasedReplacement, check_empty_samples
from ovparts_lib.vocabularies import Vocabulary


class Batch(TypedDict):
    """A training batch; images of different sizes stay apart, and each model brings them to the size it needs."""

    images: list[Tensor]  # uint8 (3, h, w), RGB unless the transform says otherwise
    part_maps: list[Tensor]  # uint8 or int32 (H, W), ids of vocabulary; models widen them on their device
    object_maps: NotRequired[list[Tensor]]  # likewise; object-level datasets have classes in part_maps alone
    image_ids: list[str]
    vocabulary: Vocabulary


class TrainingDataset(Dataset):
    """Pictures with part and object maps in the ids of the training vocabulary.

    Label maps are conditioned on the record's object (if it has one) and remapped before the transforms; the transforms
    only move pixels, so the order makes no difference, and look-up tables work on the small native maps.

    Samples whose remapped part map is all ignore are left out and counted in ``skipped``. A crop may still cut away
    every part of a sample; it is then served all the same, as a picture of none of the parts.

    Args:
        reader: the dataset on disk.
        split: one of the reader's splits.
        transform: a torchvision v2 transform of the sample; see :func:`ovparts_lib.data.transforms.training_transform`.
        empty_samples: ``skip``, or ``replace_as_released``: all samples are listed and one without parts after the
            transforms is replaced by a random other (not reproducible with workers or after a resume).
        per_object: replace a record of a whole image by one for each of its objects, for systems that are told an
            object (few-shot lists of Pascal-Part-116 and PartImageNet name images).

    Attributes:
        vocabulary: the training vocabulary.
        records: what is served.
        skipped: number of records left out because they have no part to train.

    Raises:
        DatasetError: nothing to train on, or a file is wrong.
    """

    def __init__(
        self,
        reader: Reader,
        split: str,
        transform: Callable[[Any], Any] | None = None,
        *,
        empty_samples: EmptySamples = "skip",
        per_object: bool = False,
    ) -> None:
        check_empty_samples(empty_samples)
        self.reader, self.split, self.transform = reader, split, transform
        self.vocabulary = reader.training_vocabulary(split)
        trained = np.flatnonzero(reader.vocabulary.table(self.vocabulary) != self.vocabulary.ignore_label)
        listed = reader.records(split)
        if per_object:
            listed = [each for record in listed for each in object_records(reader, split, record)]
        self.records = [record for record in listed if reader.has_part(split, record, trained)]
        self.skipped = len(listed) - len(self.records)
        if not self.records:
            raise DatasetError(f"split {split!r} has no record with a part of the vocabulary {self.vocabulary.name!r}")
        self._replacement = None
        if empty_samples == "replace_as_released":
            self.records, self.skipped = listed, 0
            self._replacement = ReleasedReplacement(len(listed))
        # Labels stay small until a model widens them on its device: up to eight times less to resize and hand over.
        small = np.uint8 if self.vocabulary.ignore_label <= 255 else np.int32
        self._part_table = reader.vocabulary.table(self.vocabulary).astype(small)
        self._object_table = reader.vocabulary.object_table(self.vocabulary).astype(small)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample.

        Returns:
            ``image`` uint8 (3, h, w); ``part_map`` and ``object_map`` (H, W) in ids of ``vocabulary``, uint8 where they
            fit, else int32, of the image's size unless a transform gives the image a size of its own; ``image_id``;
            ``vocabulary``.
        """
        if self._replacement is not None:
            return self._replacement.serve(index, self._sample_with_parts)
        return self._sample(index)

    def _sample_with_parts(self, index: int) -> dict[str, Any] | None:
        sample = self._sample(index)
        return sample if bool((sample["part_map"] != self.vocabulary.ignore_label).any()) else None

    def _sample(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        image, object_map, part_map = read_sample(self.reader, record)
        if record.object_id is not None:
            ignore = self.reader.vocabulary.ignore_label
            outside = ~self.reader.region(record, object_map)
            object_map = np.where(outside, ignore, record.object_id).astype(object_map.dtype)
            part_map = np.where(outside, ignore, part_map).astype(part_map.dtype)
        sample = {
            "image": tv_tensors.Image(image),
            "part_map": tv_tensors.Mask(torch.from_numpy(self._part_table[part_map])),
            "object_map": tv_tensors.Mask(torch.from_numpy(self._object_table[object_map])),
        }
        return transformed(sample, self.transform) | {"image_id": record.image_id, "vocabulary": self.vocabulary}


@dataclass(frozen=True, eq=False)
class ObjectRegion:
    """The pixels that one record is about, stored as a mask inside a box.

    Attributes:
        object_id: the object the record is conditioned on.
        top: first row of the box.
        left: first column of the box.
        mask: bool (h, w), the pixels of the object inside the box.
    """

    object_id: int
    top: int
    left: int
    mask: Tensor

    @classmethod
    def of(cls, object_id: int, region: np.ndarray) -> ObjectRegion:
        """From a mask of the whole image, bool (H, W) with at least one pixel; the box is as tight as can be."""
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        mask = region[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        return cls(object_id, top, left, torch.from_numpy(np.ascontiguousarray(mask)))

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the box, to index a map of the image with."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass
class EvaluationSample:
    """One picture with its labels and the objects it is evaluated for.

    Attributes:
        image: uint8 (3, H, W) RGB at native size, EXIF orientation applied.
        part_map: int64 (H, W), ids of the full vocabulary, ``ignore_label`` where there is no part.
        object_map: int64 (H, W), likewise for objects.
        regions: one entry per record of the image that has a labelled part pixel. The record's ground truth is
            ``part_map`` inside its region, and nothing outside.
        image_id: base name of the picture.
    """

    image: Tensor
    part_map: Tensor
    object_map: Tensor
    regions: tuple[ObjectRegion, ...]
    image_id: str

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The object of each record."""
        return tuple(region.object_id for region in self.regions)


class EvaluationDataset(Dataset):
    """The images of a conditioned split, each with all its records, so that it is read and encoded once.

    Args:
        reader: the dataset on disk.
        split: a split with one record per (image, object), such as ``val_obj_condition``.
        empty_samples: ``skip`` leaves records without part pixels out, and images without any other record;
            ``replace_as_released`` serves a random other record for each, as the released code does with one process
            and no workers: an object id then occurs as often as its record is served. (The released code decides after
            resizing the labels, this before, which differs only for objects that shrinking makes vanish.)

    Attributes:
        vocabulary: the full vocabulary.
        skipped_records: number of (image, object) records left out or replaced because they have no part pixel.
        empty_samples: as given.

    Raises:
        ValueError: the records of the split are not conditioned on objects.
        DatasetError: nothing to evaluate, or a file is wrong.
    """

    def __init__(
        self, reader: Reader, split: str = "val_obj_condition", *, empty_samples: EmptySamples = "skip"
    ) -> None:
        check_empty_samples(empty_samples)
        self.reader, self.split, self.vocabulary = reader, split, reader.vocabulary
        self.empty_samples = empty_samples
        records = reader.records(split)
        if any(record.object_id is None for record in records):
            raise ValueError(
                f"evaluation needs records conditioned on an object, which split {split!r} does not have; "
                f"use {split}_obj_condition"
            )
        parts = range(len(self.vocabulary.parts))
        has_part = [reader.has_part(split, record, parts) for record in records]
        self._skipped_of = Counter(r.image_id for r, useful in zip(records, has_part, strict=True) if not useful)
        self.skipped_records = len(records) - sum(has_part)
        if not any(has_part):
            raise DatasetError(f"split {split!r} has no record with a part label")
        served = [record for record, useful in zip(records, has_part, strict=True) if useful]
        if empty_samples == "replace_as_released":
            replacement = ReleasedReplacement(len(records))
            served = [replacement.serve(i, lambda k: records[k] if has_part[k] else None) for i in range(len(records))]
        self._of_image: dict[str, list[Record]] = {}
        for record in served:
            self._of_image.setdefault(record.image_id, []).append(record)
        self.image_ids = tuple(sorted(self._of_image))

    def __len__(self) -> int:
        return len(self.image_ids)

    def skipped_among(self, images: int) -> int:
        """How many of ``skipped_records`` belong to the first images: to these, or to one left out between them."""
        if images >= len(self):
            return self.skipped_records
        last = self.image_ids[images - 1]
        return sum(number for image_id, number in self._skipped_of.items() if image_id <= last)

    def object_ids(self, index: int) -> tuple[int, ...]:
        """The objects that the image at ``index`` is evaluated for, one per record, without reading the image."""
        return tuple(record.object_id for record in self._of_image[self.image_ids[index]])

    def __getitem__(self, index: int) -> EvaluationSample:
        """The image at ``index`` (images are sorted by base name). Raises DatasetError when a file is wrong."""
        records = self._of_image[self.image_ids[index]]
        image, object_map, part_map = read_sample(self.reader, records[0])
        masks = {record: self.reader.region(record, object_map) for record in records}
        regions = {record: ObjectRegion.of(record.object_id, mask) for record, mask in masks.items()}
        return EvaluationSample(
            image=image,
            part_map=torch.from_numpy(part_map.astype(np.int64)),
            object_map=torch.from_numpy(object_map.astype(np.int64)),
            regions=tuple(regions[record] for record in records),
            image_id=self.image_ids[index],
        )


def transformed(sample: dict[str, Tensor], transform: Callable[[Any], Any] | None) -> dict[str, Tensor]:
    """A sample after a transform, its tensors without torchvision's kinds."""
    sample = sample if transform is None else transform(sample)
    return {key: value.as_subclass(Tensor) for key, value in sample.items()}


def object_records(reader: Reader, split: str, record: Record) -> list[Record]:
    """A record for each object in the record's image; the record itself, if it is conditioned on one already."""
    if record.object_id is not None:
        return [record]
    objects = reader.scan(split).objects_in(record.image_id, reader.vocabulary.ignore_label)
    return [replace(record, object_id=number) for number in objects]


def read_sample(reader: Reader, record: Record) -> tuple[Tensor, *tuple[np.ndarray, ...]]:
    """Picture uint8 (3, H, W) and the label maps (H, W) of a record, checked to be of one size.

    They are object map and part map; of an object-level dataset, the map of its classes.

    Raises:
        DatasetError: a file is missing, damaged or out of range, or the sizes differ.
    """
    label_maps = reader.label_maps(record)
    image = read_image(record.image_path, label_maps[-1].shape)
    check_same_size(record.image_path, tuple(image.shape[-2:]), record.part_path, label_maps[-1].shape)
    return image, *label_maps


def collate_training(samples: Sequence[dict[str, Any]]) -> Batch:
    """Put samples of a training dataset side by side.

    Raises:
        ValueError: the samples come from different vocabularies.
    """
    vocabulary = samples[0]["vocabulary"]
    if any(sample["vocabulary"] is not vocabulary and sample["vocabulary"] != vocabulary for sample in samples):
        raise ValueError("the samples of a batch must share one vocabulary")
    lists = {f"{key}s": [sample[key] for sample in samples] for key in samples[0] if key != "vocabulary"}
    return Batch(**lists, vocabulary=vocabulary)

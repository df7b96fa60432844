"""Samples for training and evaluation, from any reader."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NotRequired, Self, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ovparts_lib.data.files import DatasetError, Record
from ovparts_lib.data.labels import check_same_size, read_image
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

EmptySamples = Literal["skip", "replace_as_released"]


class Batch(TypedDict):
    """A training batch; images of different sizes stay apart, and each model brings them to the size it needs."""

    images: list[Tensor]  # uint8 (3, h, w), RGB unless the transform says otherwise
    part_maps: list[Tensor]  # uint8 or int32 (H, W), ids of vocabulary; models widen them on their device
    object_maps: NotRequired[list[Tensor]]  # likewise; object-level datasets have classes in part_maps alone
    image_ids: list[str]
    vocabulary: Vocabulary


class TrainingDataset(Dataset):
    """Pictures with part and object maps in the ids of the training vocabulary; of object-level data, with class maps.

    Label maps are conditioned on the record's object (if it has one) and remapped before the transforms; the transforms
    only move pixels, so the order makes no difference, and look-up tables work on the small native maps.

    Samples whose remapped part map is all ignore are left out and counted in ``skipped``. A crop may still cut away
    every part of a sample; it is then served all the same, as a picture of none of the parts.

    Args:
        reader: the dataset on disk.
        split: one of the reader's splits.
        transform: a torchvision v2 transform of the sample; see :func:`ovparts_lib.data.transforms.training_transform`.
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
        self, reader: Reader, split: str, transform: Callable[[Any], Any] | None = None, *, per_object: bool = False
    ) -> None:
        self.reader, self.split, self.transform = reader, split, transform
        self.vocabulary = reader.training_vocabulary(split)
        table = reader.vocabulary.table(self.vocabulary)
        trained = np.flatnonzero(table != self.vocabulary.ignore_label)
        listed = reader.records(split)
        if per_object:
            listed = [each for record in listed for each in object_records(reader, split, record)]
        self.records = [record for record in listed if reader.has_part(split, record, trained)]
        self.skipped = len(listed) - len(self.records)
        if not self.records:
            kind = "part" if isinstance(self.vocabulary, PartVocabulary) else "class"
            what = f"split {split!r} has no record with a {kind} of the vocabulary {self.vocabulary.name!r}"
            raise DatasetError(reader.root, what, "Choose another split, or unpack the dataset again.")
        # Labels stay small until a model widens them on its device: up to eight times less to resize and hand over.
        small = np.uint8 if self.vocabulary.ignore_label <= 255 else np.int32
        self._tables = {"part_map": table.astype(small)}
        if isinstance(self.vocabulary, PartVocabulary):
            self._tables["object_map"] = reader.vocabulary.object_table(self.vocabulary).astype(small)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample.

        Returns:
            ``image`` uint8 (3, h, w); ``part_map`` and ``object_map`` (H, W) in ids of ``vocabulary``, uint8 where they
            fit, else int32, of the image's size unless a transform gives the image a size of its own; ``image_id``;
            ``vocabulary``. Object-level data have their classes in ``part_map`` and no ``object_map``.
        """
        record = self.records[index]
        image, *label_maps = read_sample(self.reader, record)
        maps = {"part_map": label_maps[-1], "object_map": label_maps[0]}
        if record.object_id is not None:
            ignore = self.reader.vocabulary.ignore_label
            outside = ~self.reader.region(record, maps["object_map"])
            maps["object_map"] = np.where(outside, ignore, record.object_id).astype(maps["object_map"].dtype)
            maps["part_map"] = np.where(outside, ignore, maps["part_map"]).astype(maps["part_map"].dtype)
        sample = {"image": tv_tensors.Image(image)} | {
            key: tv_tensors.Mask(torch.from_numpy(table[maps[key]])) for key, table in self._tables.items()
        }
        sample = sample if self.transform is None else self.transform(sample)
        # Without torchvision's kinds of tensors.
        tensors = {key: value.as_subclass(Tensor) for key, value in sample.items()}
        return tensors | {"image_id": record.image_id, "vocabulary": self.vocabulary}


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
    def of(cls, object_id: int, region: np.ndarray) -> Self:
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
        part_map: int64 (H, W), ids of the full vocabulary, ``ignore_label`` where there is no part; of an object-level
            dataset the class of every pixel.
        object_map: int64 (H, W), likewise for objects; of an object-level dataset the same as ``part_map``.
        regions: one entry per record of the image that has a labelled part pixel. The record's ground truth is
            ``part_map`` inside its region, and nothing outside. Empty for an object-level dataset, where all of the
            picture is one record.
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
    """The images of a split, each with all its records, so that it is read and encoded once.

    Args:
        reader: the dataset on disk.
        split: a split with one record per (image, object), such as ``val_obj_condition``; of object-level data any.
        empty_samples: ``skip`` leaves records without part pixels out, and images without any other record;
            ``replace_as_released`` serves a random other record for each, as the released code does with one process
            and no workers: an object id then occurs as often as its record is served. (The released code decides after
            resizing the labels, this before, which differs only for objects that shrinking makes vanish.)

    Attributes:
        vocabulary: the full vocabulary.
        image_ids: of the images, sorted.
        skipped_records: number of records left out or replaced because they have no labelled pixel.
        empty_samples: as given.

    Raises:
        ValueError: the records of the split are not conditioned on objects.
        DatasetError: nothing to evaluate, or a file is wrong.
    """

    def __init__(
        self, reader: Reader, split: str = "val_obj_condition", *, empty_samples: EmptySamples = "skip"
    ) -> None:
        self.reader, self.split, self.vocabulary = reader, split, reader.vocabulary
        self.empty_samples, self._of_parts = empty_samples, isinstance(self.vocabulary, PartVocabulary)
        records = reader.records(split)
        if self._of_parts and any(record.object_id is None for record in records):
            raise ValueError(f"records of split {split!r} are not conditioned on objects; use {split}_obj_condition")
        classes = range(len(self.vocabulary.classes))
        has_part = [reader.has_part(split, record, classes) for record in records]
        self._skipped_of = Counter(r.image_id for r, useful in zip(records, has_part, strict=True) if not useful)
        self.skipped_records = len(records) - sum(has_part)
        if not any(has_part):
            raise DatasetError(reader.root, f"split {split!r} of {reader.title} has no image with a label")
        served = [record for record, useful in zip(records, has_part, strict=True) if useful]
        if empty_samples == "replace_as_released":
            served = [records[index] for index in replaced_as_released(has_part, range(len(records)))]
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
        image, *label_maps = read_sample(self.reader, records[0])
        part_map, object_map = (torch.from_numpy(label_maps[place].astype(np.int64)) for place in (-1, 0))
        regions: dict[Record, ObjectRegion] = {}
        for record in records if self._of_parts else ():
            if record not in regions:
                regions[record] = ObjectRegion.of(record.object_id, self.reader.region(record, label_maps[0]))
        served = tuple(regions[record] for record in records if record in regions)
        return EvaluationSample(image, part_map, object_map, served, self.image_ids[index])


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
    """Put samples of one training dataset side by side."""
    vocabulary = samples[0]["vocabulary"]
    lists = {f"{key}s": [sample[key] for sample in samples] for key in samples[0] if key != "vocabulary"}
    return Batch(**lists, vocabulary=vocabulary)


def replaced_as_released(useful: Sequence[bool], requested: Iterable[int]) -> list[int]:
    """Which samples are served where some of those asked for are empty; detectron2's ``MapDataset``.

    In place of an empty sample a random other is served, drawn from those not yet known to be empty by a generator of
    its own with seed 42. What is served thus depends on everything served before; in the released data loader also on
    the number of workers, which is none here.

    Args:
        useful: of each sample, whether it is not empty; one at least is.
        requested: the samples asked for, in order.
    """
    draw, candidates, served = random.Random(42), set(range(len(useful))), []
    for index in requested:
        while not useful[index]:
            candidates.discard(index)
            # A set iterates in the reference's order only if it is filled and emptied in the reference's way.
            index = draw.sample(list(candidates), k=1)[0]
        candidates.add(index)
        served.append(index)
    return served

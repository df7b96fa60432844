"""Scoring a system on a dataset: one forward pass per image, confusion matrices per mode."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ovparts_lib.data.part_dataset import EvaluationDataset, EvaluationSample
from ovparts_lib.evaluation.confusion import (
    ConfusionMatrix,
    MatrixFileError,
    count_pairs,
    read_matrices,
    write_matrices,
)
from ovparts_lib.evaluation.label_maps import oracle_map, pred_all_map
from ovparts_lib.models.scores import PartScores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

MODES = ("oracle_obj", "pred_all")
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_FILE = "matrices.npz"


class NotANumberError(ValueError):
    """A system gave scores that are not numbers; the message names the image."""


@dataclass
class Evaluation:
    """Counts from which every protocol is computed.

    Attributes:
        matrices: a confusion matrix per mode, summed over all records; see :func:`score_image`.
        class_images: int64 (N,), in how many images each part occurs in the ground truth of a record.
        records: (image, object) records counted.
        images: images counted.
        skipped_records: records of the dataset left out because they have no part pixel.
        dataset_images: images in the dataset; more than ``images`` when the evaluation was limited.
        vocabulary: what the ids mean.
    """

    matrices: dict[str, ConfusionMatrix]
    class_images: np.ndarray
    records: int
    images: int
    skipped_records: int
    dataset_images: int
    vocabulary: Vocabulary

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that were scored."""
        return tuple(self.matrices)

    def __add__(self, other: Evaluation) -> Evaluation:
        """The evaluation of two disjoint shards of one dataset, in either order.

        Raises:
            ValueError: the shards have different vocabularies or modes.
        """
        if not isinstance(other, Evaluation):
            return NotImplemented
        if self.vocabulary.hash != other.vocabulary.hash or set(self.matrices) != set(other.matrices):
            raise ValueError(
                f"evaluations of vocabulary {self.vocabulary.hash} in modes {sorted(self.matrices)} and of "
                f"{other.vocabulary.hash} in {sorted(other.matrices)} cannot be added"
            )
        return Evaluation(
            matrices={mode: matrix + other.matrices[mode] for mode, matrix in self.matrices.items()},
            class_images=self.class_images + other.class_images,
            records=self.records + other.records,
            images=self.images + other.images,
            skipped_records=self.skipped_records + other.skipped_records,
            dataset_images=self.dataset_images + other.dataset_images,
            vocabulary=self.vocabulary,
        )

    def save(self, folder: Path | str) -> Path:
        """Write ``matrices.npz`` (matrices, counts, the vocabulary and its hash) into a folder; returns its path."""
        path = Path(folder) / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "records": self.records,
            "images": self.images,
            "skipped_records": self.skipped_records,
            "dataset_images": self.dataset_images,
            "vocabulary": _vocabulary_facts(self.vocabulary),
        }
        extra = {"class_images": self.class_images, "facts": np.array(json.dumps(facts))}
        write_matrices(path, self.matrices, self.vocabulary.hash, extra)
        return path

    @classmethod
    def load(cls, folder: Path | str, vocabulary: Vocabulary | None = None) -> Evaluation:
        """Read what :meth:`save` wrote.

        Args:
            folder: the folder, or the npz file itself.
            vocabulary: the vocabulary expected; None takes the one in the file.

        Raises:
            MatrixFileError: the file is missing, damaged, or of another vocabulary.
        """
        path = Path(folder)
        path = path / _FILE if path.is_dir() else path
        matrices, arrays = read_matrices(path, vocabulary.hash if vocabulary else None)
        try:
            facts, class_images = json.loads(str(arrays["facts"])), arrays["class_images"]
            stored = Vocabulary(**facts.pop("vocabulary"))
            evaluation = cls(matrices=matrices, class_images=class_images, vocabulary=stored, **facts)
        except (KeyError, TypeError, ValueError) as error:
            raise MatrixFileError(f"{path} does not describe an evaluation: {error}") from error
        wrong = [mode for mode, matrix in matrices.items() if matrix.classes != len(stored.parts)]
        if wrong or stored.hash != str(arrays["vocabulary_hash"]) or class_images.shape != (len(stored.parts),):
            raise MatrixFileError(f"{path}: the matrices and the vocabulary stored with them do not belong together")
        return evaluation


def evaluate(
    model: nn.Module,
    dataset: EvaluationDataset,
    *,
    device: torch.device | str,
    precision: str = "32-true",
    modes: Sequence[str] = MODES,
    progress: bool = True,
    limit: int | None = None,
    workers: int = 0,
) -> Evaluation:
    """Score a system on all records of a dataset, at the native size of the label files.

    Each image is read, encoded and decoded once, whatever the number of its records and modes; labels, arg-max and
    counts stay on the device. Only the parts of the objects at hand are asked for when no mode needs others.

    Args:
        model: any system with ``predict``; it is put on the device and, for the duration, in evaluation mode.
        dataset: its images, each with its records.
        device: where everything but reading happens.
        precision: ``32-true``, or ``bf16-mixed`` / ``16-mixed`` for autocast of the network; scores are compared in
            float32.
        modes: ``oracle_obj``, ``pred_all`` or both.
        progress: show a progress bar.
        limit: score the first ``limit`` images only.
        workers: processes that read ahead; the result does not depend on it.

    Raises:
        ValueError: unknown mode or precision, or a limit below 1.
        NotANumberError: the model's scores contain NaN.
    """
    _check_arguments(modes, precision, limit)
    device, vocabulary = torch.device(device), dataset.vocabulary
    classes, count = len(vocabulary.parts), min(len(dataset), limit or len(dataset))
    matrices = {mode: ConfusionMatrix(classes, device) for mode in modes}
    class_images = torch.zeros(classes, dtype=torch.int64, device=device)
    records = 0
    # batch_size=None hands samples over as they are; images differ in size.
    loader = DataLoader(Subset(dataset, range(count)), batch_size=None, num_workers=workers)
    with _evaluation_mode(model.to(device)), torch.no_grad():
        for sample in tqdm(loader, total=count, desc="Evaluating", unit="image", disable=not progress):
            scores = _predict(model, sample, vocabulary, modes, device, precision)
            counts = score_image(scores, sample, vocabulary, modes)
            for mode, added in counts.items():
                matrices[mode].counts += added
            class_images += (next(iter(counts.values()))[:, :classes].sum(0) > 0).long()
            records += len(sample.object_ids)
    return Evaluation(
        matrices={mode: ConfusionMatrix(classes, counts=matrix.counts.cpu()) for mode, matrix in matrices.items()},
        class_images=class_images.cpu().numpy(),
        records=records,
        images=count,
        skipped_records=int(dataset.skipped_records),
        dataset_images=len(dataset),
        vocabulary=vocabulary,
    )


def score_image(
    scores: PartScores, sample: EvaluationSample, vocabulary: Vocabulary, modes: Sequence[str] = MODES
) -> dict[str, Tensor]:
    """Confusion counts of one image, summed over its records.

    The ground truth of a record is the part map inside its object. Every record counts all pixels of the image: those
    without a label in it, other objects included, go to column N with the prediction they got.

    Args:
        scores: what the system says about the image.
        sample: the image's labels and records.
        vocabulary: the vocabulary of both.
        modes: what to count.

    Returns:
        int64 (N+1, N+1) per mode, on the device of the scores.

    Raises:
        ValueError: a label lies outside the vocabulary, or scores and labels are of different sizes.
        NotANumberError: the scores contain NaN.
    """
    classes, device = len(vocabulary.parts), scores.logits.device
    _check_scores(scores, sample)
    part_map = to_target(sample.part_map.to(device), classes, vocabulary.ignore_label)
    everywhere = pred_all_map(scores, nothing=classes) if "pred_all" in modes else None
    totals = {mode: torch.zeros((classes + 1, classes + 1), dtype=torch.int64, device=device) for mode in modes}
    for region in sample.regions:
        target = torch.full_like(part_map, classes)
        target[region.box] = torch.where(region.mask.to(device), part_map[region.box], classes)
        for mode in modes:
            prediction = everywhere if mode == "pred_all" else oracle_map(scores, region.object_id, vocabulary)
            totals[mode] += count_pairs(prediction, target, classes)
    return totals


def to_target(label_map: Tensor, classes: int, ignore_label: int) -> Tensor:
    """A label map with its ignore label replaced by ``classes``, the index of "nothing" in a confusion matrix."""
    return label_map.masked_fill(label_map == ignore_label, classes)


def _predict(
    model: nn.Module,
    sample: EvaluationSample,
    vocabulary: Vocabulary,
    modes: Sequence[str],
    device: torch.device,
    precision: str,
) -> PartScores:
    wanted: dict[str, Any] = {}
    if "pred_all" not in modes:
        parts = {part for object_id in sample.object_ids for part in vocabulary.parts_of(object_id)}
        wanted = {"part_ids": sorted(parts), "background": False}
    dtype = PRECISIONS[precision]
    with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
        return model.predict([sample.image.to(device)], vocabulary, **wanted)[0]


def _check_scores(scores: PartScores, sample: EvaluationSample) -> None:
    if tuple(scores.image_size) != tuple(sample.part_map.shape):
        raise ValueError(
            f"image {sample.image_id}: the scores are for an image of {tuple(scores.image_size)}, "
            f"the labels are {tuple(sample.part_map.shape)} (height, width)"
        )
    channels = [scores.logits] if scores.background is None else [scores.logits, scores.background]
    # A maximum passes NaN on, in a single pass over memory.
    if any(bool(torch.isnan(channel.amax())) for channel in channels):
        raise NotANumberError(
            f"image {sample.image_id}: the model's scores contain NaN, so there is nothing to score; "
            "check the weights, or evaluate with precision 32-true"
        )


def _check_arguments(modes: Sequence[str], precision: str, limit: int | None) -> None:
    if not modes or any(mode not in MODES for mode in modes):
        raise ValueError(f"modes must be among {', '.join(MODES)}, not {list(modes)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, or None for all, not {limit}")


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _vocabulary_facts(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "name": vocabulary.name,
        "parts": vocabulary.parts,
        "objects": vocabulary.objects,
        "unseen_objects": sorted(vocabulary.unseen_objects),
        "ignore_label": vocabulary.ignore_label,
        "title": vocabulary.title,
    }

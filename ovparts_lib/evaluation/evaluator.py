"""Scoring a system on a dataset: one forward pass per image, confusion matrices per mode.

The ground truth is the label files as they are, or resized twice as the released evaluators do.
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from ovparts_lib.data.dataset import EvaluationDataset, EvaluationSample, ObjectRegion
from ovparts_lib.data.loader import worker_options
from ovparts_lib.evaluation.label_maps import OracleRule, competing_parts
from ovparts_lib.evaluation.objects import score_objects
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.scoring import MODES, ImageScore, add_counts, score_image, score_records
from ovparts_lib.evaluation.stored import DEFAULT_OPTIONS, Evaluation
from ovparts_lib.images import resize_labels, shortest_edge_size
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


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
    level: str | None = None,
    strict: bool = True,
    boundary: bool = False,
    oracle_rule: OracleRule = "exact",
    double_resize: tuple[int, int] | None = None,
    predict: Callable[[EvaluationSample], list[Scores]] | None = None,
) -> Evaluation:
    """Score a system on all records of a dataset, at the native size of the label files.

    Each image is read, encoded and decoded once, whatever the number of its records and modes; labels, arg-max and
    counts stay on the device. Only the parts of the objects at hand are asked for when no mode needs others. A system
    whose scores depend on the record's object (its class says ``needs_regions``; ZSSeg+) gets all regions of an image
    in one call, ``predict([image], vocabulary, regions=[sample.regions])``, so that it encodes the image once, and
    gives one :class:`Scores` per region, with which the record is scored in ``oracle_obj``; for ``pred_all`` it is
    asked once more, without regions, and finds the objects.

    Args:
        model: any system with ``predict``; it is put on the device and, for the duration, in evaluation mode, and
            lets go of what it can do without (:meth:`SegmentationSystem.without_unused_towers`).
        dataset: its ``vocabulary`` and images, an ``EvaluationSample`` each; with a :class:`PartVocabulary` with its
            records.
        device: where everything but reading happens.
        precision: ``32-true``, or ``bf16-mixed`` / ``16-mixed`` for autocast of the network; scores are compared in
            float32.
        modes: ``oracle_obj``, ``pred_all`` or both; for objects it is ``pred_all``, whatever is given.
        progress: show a progress bar.
        limit: score the first ``limit`` images only.
        workers: processes that read ahead; the result does not depend on it.
        level: ``parts``, or ``objects``: which object a pixel belongs to, one record per image; for systems that also
            predict objects. None for the level of the dataset's vocabulary.
        strict: in ``pred_all``, also count part predictions on known background, for ``recommended_strict``.
        boundary: also count boundaries, per class and as released (some milliseconds per record).
        oracle_rule: how the known object restricts the parts; the released rules by name.
        double_resize: (shortest, longest) side of the released network input, to score against the ground truth that
            the released evaluators see; None: against the label files.
        predict: what gives the scores of a sample's records in ``oracle_obj``, such as an ablation that is told a part
            of the truth; None: the system.

    Raises:
        ValueError: the vocabulary has no parts, and the level is parts.
        NotANumberError: the model's scores contain NaN or infinities.
    """
    full = dataset.vocabulary
    of_parts = isinstance(full, PartVocabulary)
    level = level or ("parts" if of_parts else "objects")
    if not of_parts and (level == "parts" or double_resize is not None):
        raise ValueError(f"{full.name!r} is a vocabulary without parts: it has no level 'parts' and no double_resize")
    modes = tuple(modes) if level == "parts" else ("pred_all",)
    device = torch.device(device)
    count = min(len(dataset), limit or len(dataset))
    vocabulary = full.whole_objects if of_parts and level == "objects" else full
    totals = _Totals(len(vocabulary.classes), modes)
    records = 0
    # batch_size=None hands samples over as they are; images differ in size.
    loader = DataLoader(Subset(dataset, range(count)), batch_size=None, **worker_options(workers, lambda: dataset[0]))
    with _evaluation_mode(model.to(device), full), torch.no_grad():
        for sample in tqdm(loader, total=count, desc="Evaluating", unit="image", disable=not progress):
            if double_resize is not None:
                sample = double_resized_sample(sample, *double_resize)
            found, asked = ImageScore({}), modes
            if "oracle_obj" in modes and getattr(model, "needs_regions", False):
                oracle = ("oracle_obj",), device, precision, oracle_rule
                scores = predict(sample) if predict else _predict(model, sample, full, *oracle)
                found = score_records(scores, sample, full, oracle_rule=oracle_rule, boundary=boundary)
                asked = tuple(mode for mode in modes if mode != "oracle_obj")
            if asked:
                scores = _predict(model, sample, full, asked, device, precision, oracle_rule)[0]
                if level == "objects":
                    found = score_objects(scores, sample, full, boundary=boundary)
                else:
                    options = {"oracle_rule": oracle_rule, "strict": strict, "boundary": boundary}
                    found.add(score_image(scores, sample, full, asked, **options))
            totals.add(sample.image_id, found)
            records += len(sample.regions) if level == "parts" else 1
    return Evaluation(
        records=records,
        skipped_records=dataset.skipped_among(count),
        dataset_images=len(dataset),
        vocabulary=vocabulary,
        level=level,
        options=_options(dataset, oracle_rule, double_resize),
        **totals.collected(),
    )


class _Totals:
    """Counts over images: each image's own, sparse. All of it stays on the device until the end."""

    def __init__(self, classes: int, modes: Sequence[str]) -> None:
        self.classes, self.modes = classes, modes
        self.image_ids: list[str] = []
        self.entries: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)  # by mode, and of the background
        self.boundary: dict[str, Tensor] = {}
        self.boundary_released: dict[str, Tensor] = {}

    def add(self, image_id: str, found: ImageScore) -> None:
        """Count one more image."""
        self.image_ids.append(image_id)
        matrices = {mode: found.matrices[mode] for mode in self.modes}
        if found.background is not None:
            # Predictions on background are the last column of a matrix of their own: nothing is labelled there.
            matrices["background"] = F.pad(found.background[:, None], (self.classes, 0))
        for name, matrix in matrices.items():
            counts = matrix.to_sparse()
            self.entries[name].append((counts.indices(), counts.values()))
        add_counts(self.boundary, found.boundary)
        add_counts(self.boundary_released, found.boundary_released)

    def collected(self) -> dict[str, Any]:
        """Fields of the evaluation."""
        counts = {name: self._per_image(entries) for name, entries in self.entries.items()}
        return {
            "image_ids": tuple(self.image_ids),
            "background": counts.pop("background", None),
            "per_image": counts,
            "boundary": {mode: counts.cpu().numpy() for mode, counts in self.boundary.items()},
            "boundary_released": {mode: counts.cpu().numpy() for mode, counts in self.boundary_released.items()},
        }

    def _per_image(self, entries: Sequence[tuple[Tensor, Tensor]]) -> ImageCounts:
        image = np.repeat(np.arange(len(entries)), [len(pixels) for _, pixels in entries])
        pairs = torch.cat([places for places, _ in entries], dim=1).cpu().numpy()
        pixels = torch.cat([pixels for _, pixels in entries]).cpu().numpy()
        index = np.concatenate([image[None], pairs]).astype(np.int32)
        return ImageCounts(len(entries), self.classes, index, pixels)


def _predict(
    model: nn.Module,
    sample: EvaluationSample,
    vocabulary: Vocabulary,
    modes: Sequence[str],
    device: torch.device,
    precision: str,
    rule: OracleRule,
) -> list[Scores]:
    options: dict[str, Any] = {}
    if "pred_all" not in modes and rule != "zero_others":
        parts = {part for number in sample.object_ids for part in competing_parts((number,), vocabulary, rule)}
        options = {"class_ids": sorted(parts), "background": False}
    if getattr(model, "needs_regions", False) and "oracle_obj" in modes:
        options["regions"] = [sample.regions]
    dtype = PRECISIONS[precision]
    with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
        return model.predict([sample.image.to(device)], vocabulary, **options)


def _options(dataset: EvaluationDataset, rule: OracleRule, double_resize: tuple[int, int] | None) -> str:
    resized = double_resize and f"resized_to_{double_resize[0]}_{double_resize[1]}_and_back"
    given = {"oracle_rule": rule, "ground_truth": resized, "empty_samples": getattr(dataset, "empty_samples", "skip")}
    usual = {"oracle_rule": "exact", "ground_truth": None, "empty_samples": "skip"}
    return ", ".join(f"{key}={value}" for key, value in given.items() if value != usual[key]) or DEFAULT_OPTIONS


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module, vocabulary: Vocabulary) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with getattr(model, "without_unused_towers", contextlib.nullcontext)(vocabulary):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def double_resized(label_map: Tensor, shortest: int, longest: int) -> Tensor:
    """A label map as the released evaluators see it: resized for the network, and back to the picture's size.

    Both steps take ``floor(target · in / out)``, and the floors add up: nearly every row and column then comes from
    its neighbour above or to the left, so that a prediction which equals the label file does not score 100. The
    released mappers compute the rule in float64 and the evaluators in float32, where a few rows of some sizes differ.

    Args:
        label_map: integer (H, W).
        shortest: short side of the network's input in pixels (640 or 800 in the released configurations).
        longest: longest long side of the network's input.

    Returns:
        (H, W), same type.
    """
    size = tuple(label_map.shape)
    resized = resize_labels(label_map, shortest_edge_size(*size, shortest, longest), "floor")
    return resize_labels(resized, size, "floor", released_dtype=torch.float32)


def double_resized_sample(sample: EvaluationSample, shortest: int, longest: int) -> EvaluationSample:
    """A sample whose part map, object map and regions are :func:`double_resized`; regions that vanish stay, empty."""
    moved = partial(double_resized, shortest=shortest, longest=longest)
    regions = []
    for region in sample.regions:
        mask = torch.zeros(sample.part_map.shape, dtype=torch.bool)
        mask[region.box] = region.mask.cpu()
        mask = moved(mask)
        empty = ObjectRegion(region.object_id, 0, 0, torch.zeros((0, 0), dtype=torch.bool))
        regions.append(ObjectRegion.of(region.object_id, mask.numpy()) if mask.any() else empty)
    return dataclasses.replace(
        sample, part_map=moved(sample.part_map), object_map=moved(sample.object_map), regions=tuple(regions)
    )

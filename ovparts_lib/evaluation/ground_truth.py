"""The ground truth that is scored: label files as they are, or resized twice as the released evaluators do."""

import dataclasses

import torch
from torch import Tensor

from ovparts_lib.data.dataset import EvaluationSample, ObjectRegion
from ovparts_lib.images import resize_labels, shortest_edge_size


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
    rows, columns = (
        double_resized(torch.arange(length)[place].expand(sample.part_map.shape), shortest, longest)
        for length, place in zip(sample.part_map.shape, ((slice(None), None), (None, slice(None))), strict=True)
    )
    rows, columns = rows[:, 0], columns[0]

    def moved(values: Tensor) -> Tensor:
        return values.index_select(0, rows.to(values.device)).index_select(1, columns.to(values.device))

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

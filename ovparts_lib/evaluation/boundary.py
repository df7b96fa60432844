"""Boundary IoU: of each class's own mask, and the label difference that released evaluators compute under that name.

Both look at a band whose width is 2 % of the image diagonal (Cheng et al., Boundary IoU, CVPR 2021, as implemented with
a 3×3 erosion repeated d times, which is one window of side 2d + 1; the picture's edge counts as a boundary).

For a small part the boundary IoU equals the IoU: a mask less than 2d + 1 pixels wide everywhere is all boundary, as a
picture of 375×500 pixels (d = 12) has them by the hundred. It says something of its own only for parts that are wider.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

BAND = 0.02  # of the image diagonal
LARGEST_RELEASED = 254  # the released code keeps label maps in 8 bits, and leaves boundaries out beyond


def band_width(height: int, width: int) -> int:
    """Pixels d from the contour that still count: 2 % of the diagonal, at least 1."""
    return max(1, round(BAND * math.sqrt(height**2 + width**2)))


def boundary_mask(label_map: Tensor) -> Tensor:
    """Pixels within d of another label or of the picture's edge: bool (H, W).

    A pixel lies in its own class's mask but not in that mask eroded iff its window holds another label, that is, iff
    largest and smallest label of the window differ. So one mask serves all classes: the boundary of class c is
    ``boundary_mask(m) & (m == c)``.

    Args:
        label_map: integer (H, W), labels of at least 0.
    """
    distance = band_width(*label_map.shape)
    # Outside the picture there is a label that no class has.
    smallest = _window(label_map, distance, torch.minimum, outside=-1)
    largest = _window(label_map, distance, torch.maximum, outside=-1)
    return smallest != largest


def class_boundary_counts(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Boundary pixels of each class: int64 (3, N), rows intersection, ground truth, prediction.

    Args:
        prediction: integer (H, W), 0..N; N = background.
        target: likewise.
        classes: N.
    """
    of_prediction, of_target = boundary_mask(prediction), boundary_mask(target)
    both = of_prediction & of_target & (prediction == target)
    chosen = (target[both], target[of_target], prediction[of_prediction])
    return torch.stack([torch.bincount(labels, minlength=classes + 1)[:classes] for labels in chosen])


def label_difference(label_map: Tensor) -> Tensor:
    """What detectron2 and part-clipseg call the boundary map: each label minus the smallest in its window.

    On a map of many labels this is a difference of class ids, not a boundary: the interior of every class becomes the
    first class, and a boundary pixel keeps its label only where its neighbourhood holds label 0 or the picture's edge.
    It is kept so that figures published with it can be recomputed.

    Args:
        label_map: integer (H, W), labels 0..255.

    Returns:
        (H, W), same type.
    """
    return label_map - _window(label_map, band_width(*label_map.shape), torch.minimum, outside=0)


def _window(values: Tensor, distance: int, pick: Callable[[Tensor, Tensor], Tensor], outside: int) -> Tensor:
    """Smallest or largest value in the square of side 2 · distance + 1 around each pixel.

    Runs of 1, 2, 4, … pixels are combined, so that the cost grows with the logarithm of the window.
    """
    side = 2 * distance + 1
    padded = torch.nn.functional.pad(values, (distance, distance, distance, distance), value=outside)
    for axis in (0, 1):
        length, run = padded.shape[axis] - side + 1, 1
        while 2 * run <= side:
            short = padded.shape[axis] - run
            padded = pick(padded.narrow(axis, 0, short), padded.narrow(axis, run, short))
            run *= 2
        # Two overlapping runs cover the window.
        padded = pick(padded.narrow(axis, 0, length), padded.narrow(axis, side - run, length))
    return padded

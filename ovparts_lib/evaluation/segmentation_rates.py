"""Over- and under-segmentation of parts and objects, from the counts of each image.

Definition (Clinton, Holt, Scarborough, Yan and Gong, Accuracy assessment measures for object-based image segmentation
goodness, Photogrammetric Engineering & Remote Sensing 76(3), 2010, after Möller et al. 2007): for a reference region x
and the segment y that stands for it,

    over-segmentation = 1 - |x ∩ y| / |x|,    under-segmentation = 1 - |x ∩ y| / |y|,    D = √((over² + under²) / 2).

The first is high where a region is broken up and parts of it go elsewhere, the second where a segment spills over into
other regions. Here x is what is labelled with a class in one image and y what is predicted as it, among labelled
pixels; the rates are means over images, so that a small region counts as much as a large one, unlike recall and
precision.
"""

import numpy as np
import pandas as pd

from ovparts_lib.evaluation.per_image import ImageCounts, tally
from ovparts_lib.evaluation.stored import Evaluation

DEFINITION = "clinton_2010_per_image"


def part_rates(evaluation: Evaluation, mode: str = "pred_all") -> pd.DataFrame:
    """Rates of each class of an evaluation.

    Returns:
        A row per class: name, seen, over_segmentation, under_segmentation, distance (percent, means over images; NaN
        where there is nothing to average), images (in which it is labelled), found_images (in which some of it is
        predicted as well, over which under_segmentation and distance are averaged), mode, definition, vocabulary_hash,
        options, records, scored_images.
    """
    vocabulary, counts = evaluation.vocabulary, evaluation.per_image[mode]
    table = pd.DataFrame({"name": vocabulary.classes, "seen": [*map(vocabulary.is_seen, range(counts.classes))]})
    return _with_rates(table, counts, evaluation, mode)


def object_rates(evaluation: Evaluation, mode: str = "pred_all") -> pd.DataFrame:
    """Rates of each object: its region is the union of its parts, whichever of them is predicted.

    In ``oracle_obj`` the object is given, so the rates are 0 but for labelled parts of other objects in its region.

    Returns:
        As :func:`part_rates`, a row per object with parts.
    """
    vocabulary, counts = evaluation.vocabulary, evaluation.per_image[mode]
    owners = sorted(set(vocabulary.part_to_object))
    table = np.array([*(owners.index(owner) for owner in vocabulary.part_to_object), len(owners)])
    index = np.stack([counts.index[0], table[counts.index[1]], table[counts.index[2]]])
    merged = ImageCounts(counts.images, len(owners), index, counts.pixels)
    names = [vocabulary.objects[owner] for owner in owners]
    frame = pd.DataFrame({"name": names, "seen": [name not in vocabulary.unseen_objects for name in names]})
    return _with_rates(frame, merged, evaluation, mode)


def _with_rates(table: pd.DataFrame, counts: ImageCounts, evaluation: Evaluation, mode: str) -> pd.DataFrame:
    pixels = tally(counts, background="excluded", predicted_background=True)
    labelled = pixels.labelled > 0
    found = labelled & (pixels.predicted > 0)
    over = 1 - pixels.right / np.where(labelled, pixels.labelled, 1)
    under = 1 - pixels.right / np.where(found, pixels.predicted, 1)
    distance = np.sqrt((over**2 + under**2) / 2)
    rates = {
        "over_segmentation": _mean(over, labelled),
        "under_segmentation": _mean(under, found),
        "distance": _mean(distance, found),
        "images": labelled.sum(0),
        "found_images": found.sum(0),
    }
    return table.assign(**rates, **evaluation.identity(mode, "scored_images", definition=DEFINITION))


def _mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    number = chosen.sum(0)
    return np.where(number > 0, 100 * np.where(chosen, values, 0).sum(0) / np.maximum(number, 1), np.nan)

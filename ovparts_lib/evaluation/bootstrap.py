"""Confidence intervals by resampling images, and paired comparisons of two evaluations.

The image is the unit that is drawn: its records share a photograph and are not independent of one another. Intervals
are percentiles of the bootstrap distribution (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
They tell how much the figure depends on which images are in the test set, not on the seed of training.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ovparts_lib.evaluation.per_image import Tally
from ovparts_lib.evaluation.protocols import Protocol, protocol_named
from ovparts_lib.evaluation.stored import Evaluation

# Of which classes each figure is a mean; pixel accuracy is none.
_AVERAGED = {
    "mIoU": ("classes",),
    "seen": ("classes_seen",),
    "unseen": ("classes_unseen",),
    "harmonic": ("classes_seen", "classes_unseen"),
    "recall": ("recall_classes",),
    "pixel_accuracy": (),
    "fwIoU": ("recall_classes",),
}
FIGURES = tuple(_AVERAGED)
LEVEL = 95  # of the intervals, in percent
_AT_ONCE = 1 << 24  # float64 values held at once: 128 MiB


def bootstrap(
    evaluation: Evaluation,
    protocol: str = "recommended",
    mode: str = "oracle_obj",
    *,
    samples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Figures of an evaluation with confidence intervals.

    Args:
        evaluation: with counts of its images.
        protocol: how the counts are read.
        mode: of the evaluation.
        samples: how many sets of images are drawn, each as large as the test set, with replacement.
        seed: of the draw; images are put in order of their names first, so shards may be merged in any order.

    Returns:
        A row per figure: figure, value (of all images), low, high (NaN where the value is undefined, or where fewer
        than two samples define it), samples (that define it), classes (averaged in the value; those of both groups for
        the harmonic mean, missing for pixel accuracy), level, mode, protocol, version, vocabulary_hash, options,
        records, images.

    Raises:
        ValueError: no such protocol.
        UnsupportedModeError: the protocol cannot read the evaluation, or counts of images were not kept.
    """
    chosen = protocol_named(protocol)
    tally = _image_tally(evaluation, chosen, mode)
    value = chosen.summary(tally.total(), evaluation.vocabulary)
    drawn = _drawn(chosen, evaluation, tally, samples, seed)
    rows = [_interval(figure, float(value[figure]), drawn[figure]) for figure in FIGURES]
    identity = evaluation.identity(mode, protocol=chosen.name, version=chosen.version)
    return pd.DataFrame(rows).assign(classes=_classes(value), level=LEVEL, **identity)


def compare(
    first: Evaluation,
    second: Evaluation,
    protocol: str = "recommended",
    mode: str = "oracle_obj",
    *,
    samples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Differences second - first of two evaluations on the same images, with intervals.

    Both are read on the same drawn images, so that what makes an image hard cancels out.

    Returns:
        A row per figure: figure, first, second, value (the difference), low, high, samples, share_above (of the
        samples, how many have the second ahead), classes_first and classes_second (averaged, as in
        :func:`bootstrap`; they may differ where a protocol looks at predictions), and the constants of
        :func:`bootstrap`.

    Raises:
        ValueError: the evaluations are not of the same images, vocabulary and options; or see :func:`bootstrap`.
        UnsupportedModeError: see :func:`bootstrap`.
    """
    chosen = protocol_named(protocol)
    tallies = [_image_tally(one, chosen, mode) for one in (first, second)]
    if sorted(first.image_ids) != sorted(second.image_ids):
        missing = sorted(set(first.image_ids) ^ set(second.image_ids))
        only = f"{len(missing)} are in one evaluation only, such as {missing[0]}"
        raise ValueError(f"a paired comparison needs the same images; {only}")
    if first.vocabulary.hash != second.vocabulary.hash or first.options != second.options:
        kinds = " and ".join(f"{one.vocabulary.hash} ({one.options})" for one in (first, second))
        raise ValueError(f"evaluations of vocabulary {kinds} cannot be compared")
    values = [chosen.summary(tally.total(), first.vocabulary) for tally in tallies]
    drawn = [_drawn(chosen, first, tally, samples, seed) for tally in tallies]
    rows = []
    for figure in FIGURES:
        before, after = (float(value[figure]) for value in values)
        differences = drawn[1][figure] - drawn[0][figure]
        row = _interval(figure, after - before, differences)
        known = differences[~np.isnan(differences)]
        ahead = float((known > 0).mean()) if len(known) else np.nan
        rows.append({"figure": figure, "first": before, "second": after} | row | {"share_above": ahead})
    averaged = {"classes_first": _classes(values[0]), "classes_second": _classes(values[1])}
    identity = first.identity(mode, protocol=chosen.name, version=chosen.version)
    return pd.DataFrame(rows).assign(**averaged, level=LEVEL, **identity)


def _image_tally(evaluation: Evaluation, protocol: Protocol, mode: str) -> Tally:
    """Pixels per image and class, images in order of their names."""
    protocol.check(evaluation, mode)
    tally = protocol.tally(evaluation.per_image[mode], evaluation.vocabulary, evaluation.background)
    return tally.ordered(np.argsort(np.array(evaluation.image_ids)))


def _drawn(protocol: Protocol, evaluation: Evaluation, tally: Tally, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Each figure in each sample, float64 (samples,)."""
    weights = _weights(len(tally.right), samples, seed)
    parts = [protocol.summary(tally.weighted(some), evaluation.vocabulary) for some in weights]
    return {figure: np.concatenate([part[figure] for part in parts]) for figure in FIGURES}


def _weights(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, float64 (some samples, images), all samples in turn."""
    draw = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // max(images, 1))
    for start in range(0, samples, at_once):
        number = min(at_once, samples - start)
        yield draw.multinomial(images, np.full(images, 1 / images), size=number).astype(np.float64)


def _interval(figure: str, value: float, drawn: np.ndarray) -> dict[str, float]:
    known = drawn[~np.isnan(drawn)]
    enough = len(known) >= 2 and not np.isnan(value)
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]) if enough else (np.nan, np.nan)
    return {"figure": figure, "value": value, "low": float(low), "high": float(high), "samples": len(known)}


def _classes(summary: dict[str, np.ndarray]) -> pd.Series:
    """How many classes each figure is a mean of, in the order of ``FIGURES``."""
    numbers = [sum(int(summary[key]) for key in keys) if keys else pd.NA for keys in _AVERAGED.values()]
    return pd.Series(numbers, dtype="Int64")

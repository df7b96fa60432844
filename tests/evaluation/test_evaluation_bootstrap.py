import dataclasses

import numpy as np
import pytest

from ovparts_lib.evaluation.bootstrap import bootstrap, compare
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.protocols import PROTOCOLS, UnsupportedModeError
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.vocabularies import PartVocabulary
from tests.evaluation.recorded import read_matrix
from tests.evaluation.scripted import Labels, Scripted

VOCABULARY = PartVocabulary("four", ("a's x", "a's y", "b's x", "b's y"), ("a", "b"), frozenset({"b"}))


def drawn_evaluation(seed, images, skill=0.6, labels_seed=None):
    """Images of random size and class mixture, whose pixels are right with a probability of their own."""
    labels_draw, draw = (
        np.random.default_rng(labels_seed if labels_seed is not None else seed),
        np.random.default_rng(seed),
    )
    index, pixels = [], []
    for image in range(images):
        mixture, size = labels_draw.dirichlet(np.ones(4)), labels_draw.integers(50, 200)
        labels = labels_draw.choice(4, size, p=mixture)
        right = draw.random(size) < np.clip(skill + draw.normal(0, 0.15), 0, 1)
        predictions = np.where(right, labels, draw.integers(0, 5, size))
        pairs, counts = np.unique(np.stack([predictions, labels]), axis=1, return_counts=True)
        index.append(np.concatenate([np.full((1, len(counts)), image), pairs]))
        pixels.append(counts)
    counts = ImageCounts(images, 4, np.concatenate(index, axis=1).astype(np.int32), np.concatenate(pixels))
    return of_counts(counts)


def of_counts(counts):
    return Evaluation(
        records=counts.images,
        skipped_records=0,
        dataset_images=counts.images,
        vocabulary=VOCABULARY,
        image_ids=tuple(f"picture_{i:04d}" for i in range(counts.images)),
        per_image={"pred_all": counts},
        background=ImageCounts(counts.images, 4, np.zeros((3, 0), np.int32), np.zeros(0, np.int64)),
    )


def select(counts, order):
    """The images in another order, each at most once, possibly fewer of them."""
    entries = [np.flatnonzero(counts.index[0] == image) for image in order]
    index = counts.index[:, np.concatenate(entries)].copy()
    index[0] = np.repeat(np.arange(len(order)), [len(places) for places in entries])
    return ImageCounts(len(order), counts.classes, index, counts.pixels[np.concatenate(entries)])


@pytest.mark.parametrize(
    "protocol", ["recommended", "recommended_strict", "partclipseg_pred_all", "partcatseg_pred_all"]
)
def test_samples_equal_drawing_images_and_reading_their_matrix(protocol):
    evaluation = drawn_evaluation(0, 12)
    table = bootstrap(evaluation, protocol, "pred_all", samples=20, seed=4).set_index("figure")
    weights = np.random.default_rng(4).multinomial(12, np.full(12, 1 / 12), size=20)
    read = []
    for weight in weights:
        matrix = sum(
            count * select(evaluation.per_image["pred_all"], [image]).matrix() for image, count in enumerate(weight)
        )
        read.append(
            read_matrix(PROTOCOLS[protocol], matrix, VOCABULARY, "pred_all", background=np.zeros(5, np.int64)).summary
        )
    for figure in ("mIoU", "seen", "unseen", "harmonic", "recall", "pixel_accuracy", "fwIoU"):
        low, high = np.percentile([one[figure] for one in read], [2.5, 97.5])
        assert table.loc[figure, "low"] == pytest.approx(low, abs=1e-9)
        assert table.loc[figure, "high"] == pytest.approx(high, abs=1e-9)
    assert table.loc["mIoU", "value"] == pytest.approx(PROTOCOLS[protocol](evaluation, "pred_all").summary["mIoU"])
    assert set(table["protocol"]) == {protocol}


def test_intervals_cover():
    """The figure of the population lies in about 95 of 100 intervals, each from a test set drawn from it."""
    population = drawn_evaluation(7, 3000)
    truth = PROTOCOLS["recommended"](population, "pred_all").summary
    draw, covered = np.random.default_rng(1), {"mIoU": 0, "harmonic": 0}
    for trial in range(150):
        chosen = draw.choice(3000, 60, replace=False)
        sample = of_counts(select(population.per_image["pred_all"], chosen))
        table = bootstrap(sample, "recommended", "pred_all", samples=300, seed=trial).set_index("figure")
        for figure in covered:
            covered[figure] += table.loc[figure, "low"] <= truth[figure] <= table.loc[figure, "high"]
    # Binomial with p = 0.95: 130 of 150 is 4.7 standard deviations below its mean; 150 would mean they are too wide
    # to say anything, which the comparison with drawn matrices above excludes.
    assert min(covered.values()) >= 130


def test_a_paired_comparison_sees_what_two_intervals_do_not():
    first, second = (drawn_evaluation(seed, 80, skill, labels_seed=5) for seed, skill in ((1, 0.60), (2, 0.66)))
    table = compare(first, second, mode="pred_all", samples=400).set_index("figure")
    row = table.loc["mIoU"]
    assert row["value"] == pytest.approx(row["second"] - row["first"])
    assert row["low"] < row["value"] < row["high"]
    assert row["share_above"] > 0.9
    same = compare(first, first, mode="pred_all", samples=50).set_index("figure")
    assert (same[["value", "low", "high", "share_above"]] == 0).all(axis=None)


def test_the_order_of_images_does_not_matter():
    evaluation = drawn_evaluation(3, 10)
    order = [4, 9, 0, 1, 8, 2, 3, 7, 6, 5]
    shuffled = dataclasses.replace(
        evaluation,
        image_ids=tuple(evaluation.image_ids[i] for i in order),
        per_image={"pred_all": select(evaluation.per_image["pred_all"], order)},
    )
    one, other = (bootstrap(e, mode="pred_all", samples=50) for e in (evaluation, shuffled))
    assert one.equals(other)


def test_what_cannot_be_drawn_is_refused():
    evaluation = drawn_evaluation(0, 5)
    with pytest.raises(UnsupportedModeError, match="evaluate with strict=True"):
        bootstrap(dataclasses.replace(evaluation, background=None), "recommended_strict", "pred_all")
    with pytest.raises(ValueError, match="1 are in one evaluation only, such as picture_0004"):
        compare(evaluation, drawn_evaluation(0, 4), mode="pred_all")


def test_tables_say_how_many_classes_are_averaged():
    first, second = drawn_evaluation(1, 8), drawn_evaluation(2, 8)
    counts = second.per_image["pred_all"]  # of which one class is missed altogether
    kept = (counts.index[1] != 3) | (counts.index[2] != 3)
    second = of_counts(ImageCounts(8, 4, counts.index[:, kept], counts.pixels[kept]))
    table = bootstrap(second, "partcatseg_pred_all", "pred_all", samples=5).set_index("figure")["classes"]
    # Background is a class of the mIoU, predicted but nowhere labelled; the missed class leaves its group's mean alone.
    assert table.drop("pixel_accuracy").to_dict() == {
        "mIoU": 5, "seen": 2, "unseen": 1, "harmonic": 3, "recall": 4, "fwIoU": 4,
    }  # fmt: skip
    assert table.isna()["pixel_accuracy"]
    pair = compare(first, second, "partcatseg_pred_all", "pred_all", samples=5).set_index("figure")
    assert (pair.loc["unseen", "classes_first"], pair.loc["unseen", "classes_second"]) == (2, 1)


def test_real_evaluations_give_intervals_around_their_figures():
    evaluation = evaluate(Scripted(), Labels(), device="cpu", progress=False)
    for mode in evaluation.modes:
        table = bootstrap(evaluation, mode=mode, samples=200).set_index("figure")
        summary = PROTOCOLS["recommended"](evaluation, mode).summary
        for figure in ("mIoU", "seen", "pixel_accuracy"):
            assert table.loc[figure, "value"] == pytest.approx(summary[figure])
            assert table.loc[figure, "low"] <= summary[figure] <= table.loc[figure, "high"]

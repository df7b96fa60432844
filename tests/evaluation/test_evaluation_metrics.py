"""Rates per image, the comparison of protocols, and evaluations of objects."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.label_maps import competing_parts
from ovparts_lib.evaluation.protocols import PROTOCOLS, UnsupportedModeError, score_all
from ovparts_lib.evaluation.segmentation_rates import object_rates, part_rates
from ovparts_lib.evaluation.tables import class_table, protocol_comparison, protocol_notes, summary_table
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import Vocabulary, load_vocabulary
from tests.evaluation.scripted import VOCABULARY, Labels, Scripted

NOTHING = len(VOCABULARY.parts)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(Scripted(), Labels(), device="cpu", progress=False)


def predictions(model, dataset):
    """(labels, prediction) of every image, from dense maps; labels only inside records."""
    for sample in (dataset[i] for i in range(len(dataset))):
        scores = model.predict([sample.image], VOCABULARY)[0]
        stack = torch.cat([scores.logits, scores.background[None]])
        dense = F.interpolate(stack[None], sample.part_map.shape, mode="bilinear", align_corners=False)[0]
        labels = sample.part_map.masked_fill(sample.part_map == VOCABULARY.ignore_label, NOTHING)
        yield sample, labels.numpy(), dense.argmax(0).numpy()


def test_predictions_on_known_background_are_counted_once_per_image(evaluation):
    expected = np.zeros((5, NOTHING + 1), np.int64)
    for image, (sample, _, prediction) in enumerate(predictions(Scripted(), Labels())):
        free = (sample.object_map == VOCABULARY.ignore_label).numpy()
        expected[image] = np.bincount(prediction[free], minlength=NOTHING + 1)
    found = np.zeros_like(expected)
    image, prediction, target = evaluation.background.index
    found[image, prediction] = evaluation.background.pixels
    np.testing.assert_array_equal(found, expected)
    assert set(target) <= {NOTHING}


def test_rates_are_means_over_images_of_pixel_sets(evaluation):
    over, under = {}, {}
    for _, labels, prediction in predictions(Scripted(), Labels()):
        known = labels < NOTHING
        for part in range(NOTHING):
            x, y = (labels == part), (prediction == part) & known
            if x.any():
                over.setdefault(part, []).append(1 - (x & y).sum() / x.sum())
                if y.any():
                    under.setdefault(part, []).append(1 - (x & y).sum() / y.sum())
    table = part_rates(evaluation, "pred_all")
    assert list(table["name"]) == list(VOCABULARY.parts)
    for part, row in table.iterrows():
        assert row["images"] == len(over.get(part, []))
        assert row["over_segmentation"] == pytest.approx(100 * np.mean(over[part]))
        assert row["under_segmentation"] == pytest.approx(100 * np.mean(under[part]))


def test_objects_are_the_union_of_their_parts(evaluation):
    table = object_rates(evaluation, "oracle_obj")
    assert list(table["name"]) == ["cat", "dog", "bus"]
    assert (table[["over_segmentation", "under_segmentation"]] == 0).all(axis=None)  # the object is given
    everything = object_rates(evaluation, "pred_all").set_index("name")
    expected = []
    for _, labels, prediction in predictions(Scripted(), Labels()):
        x = np.isin(labels, [0, 1])
        if x.any():
            expected.append(1 - (x & np.isin(prediction, [0, 1])).sum() / x.sum())
    assert everything.loc["cat", "over_segmentation"] == pytest.approx(100 * np.mean(expected))
    assert not everything.loc["dog", "seen"]


def test_protocols_are_compared_figure_by_figure(evaluation):
    table = protocol_comparison(evaluation)
    results = score_all(evaluation)
    assert {(row.protocol, row.mode) for row in table.itertuples()} == {(one.protocol, one.mode) for one in results}
    chosen = table[(table["figure"] == "mIoU") & (table["mode"] == "pred_all")].set_index("protocol")
    for name, row in chosen.iterrows():
        assert row["value"] == PROTOCOLS[name](evaluation, "pred_all").summary["mIoU"]
        assert row["difference"] == pytest.approx(row["value"] - chosen.loc["recommended", "value"])


def test_every_departure_is_noted(evaluation):
    table = protocol_notes(evaluation)
    rules = {name: set(rows["rule"].str.partition(" (")[0]) for name, rows in table.groupby("protocol")}
    assert "recommended" not in rules
    assert rules["recommended_strict"] == {"background charged"}
    assert {"missed classes dropped", "background as a class"} <= rules["partcatseg_pred_all"]
    assert {"background as a class", "predicted-only classes"} <= rules["partclipseg_pred_all"]
    released = {"twice-resampled ground truth", "object restriction", "replaced empty samples"}
    assert rules["ov_parts"] == {"predicted-only classes"} | released
    assert "object restriction" not in rules["partcatseg_pred_all"]
    assert table["explanation"].str.endswith(".").all()
    assert set(table["vocabulary_hash"]) == {VOCABULARY.hash}
    assert (set(table["records"]), set(table["images"])) == ({evaluation.records}, {5})
    for row in table.itertuples():
        assert row.version == PROTOCOLS[row.protocol].version
        assert row.mode in PROTOCOLS[row.protocol].modes


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_the_notes_say_how_a_protocol_counts(name):
    protocol = PROTOCOLS[name]
    rules = {note["rule"].partition(" (")[0] for note in protocol.notes}
    counting = {
        "background as a class": protocol.background != "excluded",
        "predicted-only classes": protocol.overall == "occurring_or_predicted",
        "missed classes dropped": protocol.groups == "found",
        "group pixel accuracy": protocol.groups == "found",
        "background charged": protocol.charges_background,
        "boundary of label differences": protocol.boundary.startswith("label_difference"),
        "harmonic mean of zeros": protocol.harmonic_of_zeros == 0,
    }
    assert rules & set(counting) == {rule for rule, departs in counting.items() if departs}


def test_the_note_on_substrings_names_the_objects_of_ade():
    vocabulary = load_vocabulary("ade20k_part_234")
    differing = [
        name
        for number, name in enumerate(vocabulary.objects)
        if competing_parts((number,), vocabulary, "substring") != competing_parts((number,), vocabulary)
    ]
    note = next(note for note in PROTOCOLS["partcatseg_oracle"].notes if "substring" in note["rule"])
    assert f"{len(differing)} of {len(vocabulary.objects)} objects ({', '.join(differing)})" in note["explanation"]


class Knowing(Scripted):
    """Also predicts objects, at a resolution of their own."""

    def predict(self, images, vocabulary, **wanted):
        answers = super().predict(images, vocabulary, **wanted)
        for image, answer in zip(images, answers, strict=True):
            draw = torch.Generator().manual_seed(int(image.long().sum()) + 1)
            logits = torch.randn(4, 5, 4, generator=draw)
            answer.objects = Scores(logits[:3], (0, 1, 3), logits[3], answer.image_size)
        return answers


def test_objects_are_evaluated_on_every_pixel():
    evaluation = evaluate(Knowing(), Labels(), device="cpu", progress=False, level="objects", boundary=True)
    names = ("bus", "cat", "dog")
    expected = np.zeros((4, 4), np.int64)
    for sample in (Labels()[i] for i in range(5)):
        objects = Knowing().predict([sample.image], VOCABULARY)[0].objects
        stack = torch.cat([objects.logits, objects.background[None]])
        dense = F.interpolate(stack[None], sample.object_map.shape, mode="bilinear", align_corners=False)[0]
        found = np.array([1, 2, 0, 3])[dense.argmax(0).numpy()]  # channels are cat, dog, bus, nothing
        label = np.array([1, 2, 3, 0])[sample.object_map.clamp(max=3).numpy()]  # rock has no parts: no class
        label = np.where(sample.object_map.numpy() == VOCABULARY.ignore_label, 3, label)
        np.add.at(expected, (found, label), 1)
    np.testing.assert_array_equal(evaluation.matrices["pred_all"], expected)
    assert (evaluation.level, evaluation.vocabulary.classes, evaluation.records) == ("objects", names, 5)
    assert {one.protocol for one in score_all(evaluation)} == {
        "recommended_objects",
        "detectron2",
        "ovseg",
        "objcatseg",
    }
    assert list(class_table(evaluation, "objcatseg", "pred_all")["object"]) == list(names)
    assert summary_table([PROTOCOLS["ovseg"](evaluation, "pred_all")])["classes"].iloc[0] == 3
    with pytest.raises(UnsupportedModeError, match="'recommended' reads matrices of parts, this evaluation is over"):
        PROTOCOLS["recommended"](evaluation, "pred_all")


def test_gated_parts_are_scored_as_they_are_drawn():
    evaluation = evaluate(Knowing(), Labels(), device="cpu", progress=False)
    plain = evaluate(Scripted(), Labels(), device="cpu", progress=False)
    assert (evaluation.matrices["oracle_obj"] == plain.matrices["oracle_obj"]).all()
    assert (evaluation.matrices["pred_all"] != plain.matrices["pred_all"]).any()


def test_systems_without_objects_are_not_evaluated_on_them():
    with pytest.raises(ValueError, match="does not predict objects"):
        evaluate(Scripted(), Labels(), device="cpu", progress=False, level="objects")


def test_whole_objects_are_classes_of_their_own():
    objects = VOCABULARY.whole_objects
    assert objects.classes == ("bus", "cat", "dog")
    assert (objects.seen_ids, objects.unseen) == ((0, 1), {"dog"})
    assert type(objects) is Vocabulary


def test_scoring_against_the_twice_resized_ground_truth_says_so_and_moves_labels():
    plain = evaluate(Scripted(), Labels(), device="cpu", progress=False)
    moved = evaluate(Scripted(), Labels(), device="cpu", progress=False, double_resize=(40, 80))
    assert moved.options == "ground_truth=resized_to_40_80_and_back"
    assert int(moved.matrices["pred_all"].sum()) == int(plain.matrices["pred_all"].sum())
    assert (moved.matrices["pred_all"] != plain.matrices["pred_all"]).any()
    with pytest.raises(ValueError, match=r"different kinds cannot be added \(options: default and ground_truth="):
        plain + moved

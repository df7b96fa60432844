import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.evaluation.bootstrap import bootstrap
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.protocols import PROTOCOLS, score_all
from ovparts_lib.evaluation.scoring import NotANumberError, score_image
from ovparts_lib.evaluation.stored import Evaluation, MatrixFileError
from ovparts_lib.evaluation.tables import class_table
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary, load_vocabulary
from tests.evaluation.scripted import VOCABULARY, Labels, Scripted

PARTS = len(VOCABULARY.parts)


def run(dataset=None, model=None, **options):
    return evaluate(model or Scripted(), dataset or Labels(), device="cpu", progress=False, **options)


def brute_force(dataset, model):
    """Record by record and pixel by pixel, from dense maps."""
    counts = {mode: np.zeros((PARTS + 1, PARTS + 1), np.int64) for mode in ("oracle_obj", "pred_all")}
    images_of = np.zeros(PARTS, np.int64)
    records = 0
    for sample in (dataset[i] for i in range(len(dataset))):
        scores = model.predict([sample.image], VOCABULARY)[0]
        stack = torch.cat([scores.logits, scores.background[None]])
        dense = F.interpolate(stack[None], sample.part_map.shape, mode="bilinear", align_corners=False)[0].numpy()
        seen_here = set()
        for object_id in sample.object_ids:
            records += 1
            own = list(VOCABULARY.parts_of(object_id))
            for y, x in np.ndindex(*sample.part_map.shape):
                inside = int(sample.object_map[y, x]) == object_id
                label = int(sample.part_map[y, x]) if inside else PARTS
                if label in (PARTS, VOCABULARY.ignore_label):  # unlabelled: nothing is predicted where nothing is known
                    for matrix in counts.values():
                        matrix[PARTS, PARTS] += 1
                    continue
                counts["oracle_obj"][own[int(dense[own, y, x].argmax())], label] += 1
                counts["pred_all"][int(dense[:, y, x].argmax()), label] += 1
                seen_here.add(label)
        images_of[list(seen_here - {PARTS})] += 1
    return counts, images_of, records


@pytest.fixture(scope="module")
def expected():
    return brute_force(Labels(), Scripted())


def test_both_modes_equal_a_loop_over_records_and_pixels(expected):
    counts, images_of, records = expected
    evaluation = run()
    for mode, matrix in counts.items():
        np.testing.assert_array_equal(evaluation.matrices[mode], matrix)
    np.testing.assert_array_equal(evaluation.class_images, images_of)
    assert (evaluation.records, evaluation.images, evaluation.dataset_images) == (records, 5, 5)
    assert evaluation.skipped_records == 3


def test_one_forward_pass_serves_all_records_and_modes():
    model = Scripted()
    run(model=model)
    assert [call["images"] for call in model.calls] == [1] * 5
    assert all(call["background"] and call["class_ids"] is None for call in model.calls)


def test_oracle_alone_asks_only_for_the_parts_of_the_objects_at_hand(expected):
    model, dataset = Scripted(), Labels()
    evaluation = run(dataset, model, modes=("oracle_obj",))
    for call, sample in zip(model.calls, (dataset[i] for i in range(5)), strict=True):
        assert not call["background"]
        assert set(call["class_ids"]) == {p for o in sample.object_ids for p in VOCABULARY.parts_of(o)}
    np.testing.assert_array_equal(evaluation.matrices["oracle_obj"], expected[0]["oracle_obj"])
    assert evaluation.modes == ("oracle_obj",)


def test_every_record_counts_every_pixel_of_its_image_once(expected):
    """So that protocols which score unlabelled pixels by their number can be computed from the matrix."""
    dataset = Labels()
    pixels = sum(len(sample.object_ids) * sample.part_map.numel() for sample in (dataset[i] for i in range(5)))
    for matrix in run().matrices.values():
        assert int(matrix.sum()) == pixels


def test_a_limit_scores_the_first_images_and_says_so(expected):
    evaluation = run(limit=2)
    counts, _, records = brute_force(Labels(2), Scripted())
    np.testing.assert_array_equal(evaluation.matrices["pred_all"], counts["pred_all"])
    assert (evaluation.images, evaluation.dataset_images, evaluation.records) == (2, 5, records)
    assert evaluation.skipped_records == 2  # of 3; the third is of an image that was not looked at
    assert (run(limit=99).images, run(limit=99).skipped_records) == (5, 3)


def test_reading_ahead_does_not_change_the_counts(expected):
    for mode, matrix in run(workers=2).matrices.items():
        np.testing.assert_array_equal(matrix, expected[0][mode])


def test_shards_add_up_to_the_whole():
    class Shard(Labels):
        def __init__(self, ids):
            super().__init__(skipped=1)
            self.ids = ids

        def __len__(self):
            return len(self.ids)

        def __getitem__(self, index):
            return super().__getitem__(self.ids[index])

    whole, merged = run(), run(Shard([4, 0])) + run(Shard([2])) + run(Shard([1, 3]))
    for mode in whole.modes:
        np.testing.assert_array_equal(merged.matrices[mode], whole.matrices[mode])
    np.testing.assert_array_equal(merged.class_images, whole.class_images)
    assert (merged.images, merged.records, merged.skipped_records) == (5, whole.records, 3)
    with pytest.raises(ValueError, match="cannot be added"):
        whole + run(modes=("pred_all",))


def test_a_record_served_twice_counts_twice():
    sample = Labels()[0]
    scores = Scripted().predict([sample.image], VOCABULARY)[0]
    once = score_image(scores, sample, VOCABULARY)
    sample.regions = sample.regions * 2
    for mode, counts in score_image(scores, sample, VOCABULARY).matrices.items():
        assert torch.equal(counts, 2 * once.matrices[mode])


def test_the_model_is_scored_in_evaluation_mode_and_given_back_as_it_was():
    model = Scripted()
    model.frozen = torch.nn.Dropout().eval()
    run(model=model)
    assert not model.was_training
    assert model.training
    assert not model.frozen.training


def test_autocast_reaches_the_network():
    class Linear(Scripted):
        def __init__(self):
            super().__init__()
            self.layer, self.kinds = torch.nn.Linear(4, 4), []

        def predict(self, images, vocabulary, **wanted):
            self.kinds.append(self.layer(torch.ones(1, 4)).dtype)
            return super().predict(images, vocabulary, **wanted)

    model = Linear()
    run(Labels(1), model, precision="bf16-mixed")
    run(Labels(1), model)
    assert model.kinds == [torch.bfloat16, torch.float32]


def test_a_system_without_background_is_scored_among_parts():
    class Without(Scripted):
        def predict(self, images, vocabulary, *, class_ids=None, background=True):
            return super().predict(images, vocabulary, class_ids=class_ids, background=False)

    matrix = run(model=Without()).matrices["pred_all"]
    assert matrix[-1, :-1].sum() == 0
    assert matrix.sum() == run().matrices["pred_all"].sum()


@pytest.mark.parametrize("where", ["logits", "background"])
@pytest.mark.parametrize(("value", "what"), [("nan", "NaN"), ("inf", "infinities"), ("-inf", "infinities")])
def test_scores_that_are_not_finite_stop_the_evaluation(value, what, where):
    """An infinite logit would spread to all pixels that are resized from it, some of them as NaN."""

    class Broken(Scripted):
        def predict(self, images, vocabulary, **wanted):
            scores = super().predict(images, vocabulary, **wanted)
            getattr(scores[0], where)[..., 1, 0] = float(value)
            return scores

    with pytest.raises(NotANumberError, match=f"picture_0: the model's scores contain {what}, .* 32-true"):
        run(model=Broken())


def test_scores_of_another_size_are_refused():
    sample = Labels()[0]
    scores = Scores(torch.zeros(PARTS, 4, 4), tuple(range(PARTS)), None, (5, 5))
    with pytest.raises(ValueError, match="picture_0: the scores are for an image of"):
        score_image(scores, sample, VOCABULARY)


def test_an_evaluation_survives_its_file(tmp_path):
    evaluation = run()
    evaluation.save(tmp_path / "after")
    for read in (Evaluation.load(tmp_path / "after", VOCABULARY), Evaluation.load(tmp_path / "after" / "matrices.npz")):
        assert read.vocabulary == VOCABULARY
        assert (read.records, read.images) == (evaluation.records, evaluation.images)
        np.testing.assert_array_equal(read.class_images, evaluation.class_images)
        for mode in evaluation.modes:
            np.testing.assert_array_equal(read.matrices[mode], evaluation.matrices[mode])
    other = PartVocabulary.from_words(["cat's head"])
    with pytest.raises(MatrixFileError, match=f"belongs to the vocabulary {VOCABULARY.hash}, not to {other.hash}"):
        Evaluation.load(tmp_path / "after", other)
    with pytest.raises(MatrixFileError, match="cannot be read"):
        Evaluation.load(tmp_path)


def test_everything_an_evaluation_keeps_survives_its_file(tmp_path):
    evaluation = run(boundary=True, oracle_rule="zero_others")
    evaluation.save(tmp_path)
    read = Evaluation.load(tmp_path)
    assert (read.level, read.options, read.image_ids) == ("parts", "oracle_rule=zero_others", evaluation.image_ids)
    np.testing.assert_array_equal(read.background.matrix(), evaluation.background.matrix())
    for mode in evaluation.modes:
        np.testing.assert_array_equal(read.per_image[mode].index, evaluation.per_image[mode].index)
        np.testing.assert_array_equal(read.per_image[mode].matrix(), evaluation.matrices[mode])
        np.testing.assert_array_equal(read.boundary[mode], evaluation.boundary[mode])
        released = read.boundary_released[mode]
        np.testing.assert_array_equal(released, evaluation.boundary_released[mode])


def changed(path, **arrays):
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    np.savez(path, **(kept | arrays))


def test_files_of_an_earlier_format_are_refused_with_what_to_do(tmp_path):
    path = run().save(tmp_path)
    with np.load(path) as file:
        facts = json.loads(str(file["facts"]))
    facts.pop("format")
    changed(path, facts=np.array(json.dumps(facts)))
    with pytest.raises(MatrixFileError, match=r"is of format 1, this version reads 2: score again"):
        Evaluation.load(tmp_path)


def test_files_with_an_image_too_many_are_refused(tmp_path):
    evaluation = run()
    path = evaluation.save(tmp_path)
    changed(path, image_pred_all_index=evaluation.per_image["pred_all"].index + 5)
    with pytest.raises(MatrixFileError, match="image_pred_all holds an image or a class that does not exist"):
        Evaluation.load(tmp_path)


def test_shards_that_share_an_image_are_not_added():
    with pytest.raises(ValueError, match="share images cannot be added: picture_0, picture_1, picture_2"):
        run() + run()


def test_released_rules_ask_for_the_parts_they_need():
    model, dataset = Scripted(), Labels()
    run(dataset, model, modes=("oracle_obj",), oracle_rule="zero_others")
    assert all(call["class_ids"] is None for call in model.calls)
    exact, zeroed = (run(oracle_rule=rule).matrices["oracle_obj"] for rule in ("exact", "zero_others"))
    np.testing.assert_array_equal(exact, zeroed)


@pytest.mark.parametrize("name", ["ade20k_part_234", "partimagenet_seg", "partimagenet_ood"])
def test_other_vocabularies_count_like_dense_maps(name):
    vocabulary = load_vocabulary(name)
    dataset, model = Labels(1, vocabulary), Scripted((9, 8))
    sample = dataset[0]
    evaluation = evaluate(model, dataset, device="cpu", progress=False)
    scores = model.predict([sample.image], vocabulary)[0]
    stack = torch.cat([scores.logits, scores.background[None]])
    dense = F.interpolate(stack[None], sample.part_map.shape, mode="bilinear", align_corners=False)[0].argmax(0)
    known = (sample.part_map != vocabulary.ignore_label).numpy()
    expected = np.zeros((len(vocabulary.parts) + 1,) * 2, np.int64)
    np.add.at(expected, (dense.numpy()[known], sample.part_map.numpy()[known]), 1)
    expected[-1, -1] = len(sample.regions) * known.size - known.sum()
    np.testing.assert_array_equal(evaluation.matrices["pred_all"], expected)


def test_labels_outside_the_vocabulary_are_named():
    sample = Labels()[0]
    scores = Scripted().predict([sample.image], VOCABULARY)[0]
    sample.part_map[0, 0] = PARTS + 3
    with pytest.raises(ValueError, match=rf"holds the label {PARTS + 3}; labels are 0\.\.{PARTS - 1} and 255"):
        score_image(scores, sample, VOCABULARY)


def test_scores_so_large_that_their_sum_overflows_are_still_numbers():
    sample = Labels()[0]
    scores = Scripted().predict([sample.image], VOCABULARY)[0]
    expected = score_image(scores, sample, VOCABULARY).matrices["pred_all"]
    scores.logits, scores.background = scores.logits * 1e37, scores.background * 1e37
    scores.logits[:, 0, 0], scores.background[0, 0] = 1e38, 3e38
    found = score_image(scores, sample, VOCABULARY).matrices["pred_all"]
    assert found.sum() == expected.sum()


class Classes(torch.utils.data.Dataset):
    """Pictures of an object-level list, one label map each."""

    vocabulary = Vocabulary("list", ("wall", "altar, communion table, lord's table", "sky"), {"sky"}, 65535)

    def __len__(self):
        return 4

    def skipped_among(self, images):
        return 3

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        labels = torch.randint(0, 4, (9 + index, 12), generator=draw)
        image = torch.randint(0, 256, (3, *labels.shape), generator=draw, dtype=torch.uint8)
        labels = labels.masked_fill(labels == 3, 65535)
        return EvaluationSample(image, labels, labels, (), f"scene_{index}")


@pytest.mark.parametrize("factored", [False, True])
def test_an_object_level_list_is_scored_on_every_pixel(tmp_path, factored):
    class Masks(Scripted):
        """Mask classification: no map per class, and no background."""

        def predict(self, images, vocabulary, **wanted):
            (scores,) = super().predict(images, vocabulary, **wanted)
            weights = torch.tensor([[1.0, 0.5], [0.25, 2.0], [-1.0, 1.0]]) if factored else None
            logits = scores.logits[:2] if factored else scores.logits
            return [dataclasses.replace(scores, logits=logits, class_weights=weights, background=None)]

    dataset, model = Classes(), Masks()
    evaluation = run(dataset, model, boundary=True)
    expected = np.zeros((4, 4), np.int64)
    for sample in (dataset[i] for i in range(4)):
        maps = model.predict([sample.image], dataset.vocabulary)[0].class_maps()
        dense = F.interpolate(maps[None], sample.part_map.shape, mode="bilinear", align_corners=False)[0].argmax(0)
        np.add.at(expected, (dense.numpy(), sample.part_map.clamp(max=3).numpy()), 1)
    np.testing.assert_array_equal(evaluation.matrices["pred_all"], expected)
    assert (evaluation.level, evaluation.records, evaluation.modes) == ("objects", 4, ("pred_all",))
    assert {result.protocol for result in score_all(evaluation)} == {
        "recommended_objects",
        "detectron2",
        "ovseg",
        "objcatseg",
    }
    table = class_table(evaluation, "ovseg", "pred_all")
    assert list(table["part"]) == list(dataset.vocabulary.classes)
    assert list(table["seen"]) == [True, True, False]
    intervals = bootstrap(evaluation, "ovseg", "pred_all", samples=5)
    assert intervals["value"][0] == pytest.approx(PROTOCOLS["ovseg"](evaluation, "pred_all").summary["mIoU"])
    evaluation.save(tmp_path)
    assert Evaluation.load(tmp_path).vocabulary == dataset.vocabulary
    with pytest.raises(ValueError, match="'list' is a vocabulary without parts"):
        run(dataset, model, level="parts")


class OfRegions(Scripted):
    """Scores that depend on the record's mask, as ZSSeg+'s do; the picture is encoded once for all of them."""

    needs_regions = True

    def predict(self, images, vocabulary, *, class_ids=None, background=True, regions=None):
        (scores,) = super().predict(images, vocabulary, class_ids=class_ids, background=background)
        self.calls[-1]["regions"] = regions
        if regions is None:
            return [scores]
        sums = [int(region.mask.sum()) + region.left for region in regions[0]]
        return [dataclasses.replace(scores, logits=scores.logits.roll(number, dims=0)) for number in sums]


def test_scores_of_regions_are_counted_each_in_its_own_record():
    model, dataset = OfRegions(), Labels()
    evaluation = run(dataset, model, modes=("oracle_obj",), boundary=True)
    assert [len(call["regions"][0]) for call in model.calls] == [len(dataset[i].regions) for i in range(5)]
    expected = np.zeros((PARTS + 1, PARTS + 1), np.int64)
    for sample in (dataset[i] for i in range(5)):
        for region in sample.regions:
            own = list(VOCABULARY.parts_of(region.object_id))
            ids = sorted({part for number in sample.object_ids for part in VOCABULARY.parts_of(number)})
            (scores,) = model.predict([sample.image], VOCABULARY, class_ids=ids, regions=[[region]])
            maps = scores.class_maps(own)
            dense = F.interpolate(maps[None], sample.part_map.shape, mode="bilinear", align_corners=False)[0].argmax(0)
            inside = (sample.object_map == region.object_id) & (sample.part_map < PARTS)
            np.add.at(expected, (np.array(own)[dense[inside]], sample.part_map[inside].numpy()), 1)
            expected[PARTS, PARTS] += int((~inside).sum())
    np.testing.assert_array_equal(evaluation.matrices["oracle_obj"], expected)
    assert evaluation.boundary["oracle_obj"].shape == (3, PARTS)
    # pred-all is asked without regions
    both, plain = run(dataset, model, boundary=True), run(dataset, Scripted(), modes=("pred_all",), boundary=True)
    np.testing.assert_array_equal(both.matrices["oracle_obj"], expected)
    np.testing.assert_array_equal(both.matrices["pred_all"], plain.matrices["pred_all"])
    np.testing.assert_array_equal(both.boundary["pred_all"], plain.boundary["pred_all"])

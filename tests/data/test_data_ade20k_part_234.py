import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch

from ovparts_lib.data.audit import class_frequencies
from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.registry import DATASETS
from ovparts_lib.data.transforms import ResizeShortestEdge, training_transform
from tests.data.ade_layout import PICTURES, VOC, box_mask, part_map
from tests.data.released_layout import GOLDEN, picture, save

SPLITS = DATASETS["ade20k_part_234"].settings
LISTING = json.loads((GOLDEN / "listing_ade.json").read_text())
MAPPER = json.loads((GOLDEN / "mapper_ade.json").read_text())
ARRAYS = np.load(GOLDEN / "mapper_ade.npz")
JSON, PART = "ade20k_instance_{}.json", "annotations_detectron2_part/{}/{}.png"


def named(records):
    return [(r.image_id, VOC.objects[r.object_id]) for r in records]


def edited(root, name, change):
    """The instance file of a tree with ``change(data)`` applied."""
    path = root / JSON.format(name)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return ADE20KPart234(root)


@pytest.fixture
def reader(ade_root):
    return ADE20KPart234(ade_root)


@pytest.mark.parametrize("split", SPLITS)
def test_records_equal_the_released_listing(tmp_path, monkeypatch, split):
    monkeypatch.chdir(tmp_path)
    for path, content in LISTING["json_files"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))
    reader = ADE20KPart234("datasets/ADE20KPart234")
    expected = LISTING["records"][f"ade_obj_part_sem_seg_{split}"]
    records = reader.records(split)
    assert [(str(r.image_path), str(r.part_path), r.object_id) for r in records] == [
        (e["file_name"], e["sem_seg_file_name"], e.get("category_id")) for e in expected
    ]
    if not SPLITS[split].conditioned:
        images = {image.file_name: image for image in reader.annotations("train").images}
        kept = [[i.category_id for i in images[r.image_path.name].instances] for r in records]
        assert kept == [[a["category_id"] for a in e["obj_annotations"]] for e in expected]


def test_every_golden_split_is_covered():
    assert {name.removeprefix("ade_obj_part_sem_seg_") for name in LISTING["records"]} == set(SPLITS)


@pytest.fixture(scope="module")
def golden_root(tmp_path_factory):
    """The golden input as the only image of both folders, its picture stored losslessly."""
    root = tmp_path_factory.mktemp("golden") / "ADE20KPart234"
    height, width = ARRAYS["in/ade/part"].shape
    for name, folder in (("train", "training"), ("val", "validation")):
        save(root / f"images/{folder}/one_{name}.png", ARRAYS["in/ade/image"])
        (root / f"images/{folder}/one_{name}.png").rename(root / f"images/{folder}/one_{name}.jpg")
        save(root / PART.format(folder, f"one_{name}"), ARRAYS["in/ade/part"])
        image = {"id": 1, "file_name": f"one_{name}.jpg", "height": height, "width": width}
        instances = [{"id": i, "image_id": 1, **a} for i, a in enumerate(MAPPER["input"]["annotations"])]
        (root / JSON.format(name)).write_text(json.dumps({"images": [image], "annotations": instances}))
    (root / "train_16shot.json").write_text('[{"file_name": "images/training/one_train.jpg"}]')
    return root


def golden_sample(root, name):
    case = MAPPER["cases"][name]
    if case["is_train"]:
        transform = training_transform(
            shortest_edge=45, longest_edge=80, flip=float(case["flip"]), label_resize="floor"
        )
    else:
        transform = ResizeShortestEdge(case["MIN_SIZE_TEST"], case["MAX_SIZE_TEST"], "floor")
    dataset = TrainingDataset(ADE20KPart234(root), case["split"].removeprefix("ade_obj_part_sem_seg_"), transform)
    folder = "train" if case["is_train"] else "val"
    wanted = [
        i
        for i, r in enumerate(dataset.records)
        if r.image_path.stem == f"one_{folder}" and r.instance == case.get("annotation")
    ]
    return dataset, dataset[wanted[0]]


@pytest.mark.parametrize("name", MAPPER["cases"])
def test_samples_equal_the_released_mapper(golden_root, name):
    dataset, sample = golden_sample(golden_root, name)
    out = f"out/{name}/"
    np.testing.assert_array_equal(sample["image"].numpy(), ARRAYS[out + "image"])
    np.testing.assert_array_equal(sample["part_map"].numpy(), ARRAYS[out + "obj_part_sem_seg"])
    np.testing.assert_array_equal(sample["object_map"].numpy(), ARRAYS[out + "sem_seg"])
    assert sample["part_map"].dtype == sample["object_map"].dtype == torch.int32
    assert dataset.vocabulary == (VOC.seen if name == "ade_train" else VOC)
    assert dataset.vocabulary.ignore_label == 65535


def test_native_maps_equal_the_mappers_originals(golden_root):
    reader = ADE20KPart234(golden_root)
    object_map, parts = reader.label_maps(reader.pairs("train")[0])
    np.testing.assert_array_equal(object_map, ARRAYS["out/ade_train/ori_obj_sem_seg_gt"])
    np.testing.assert_array_equal(parts, ARRAYS["in/ade/part"])
    dataset = EvaluationDataset(reader)
    sample = dataset[dataset.image_ids.index("one_val")]
    for record, region in zip(reader.instances("val"), sample.regions, strict=True):
        raw = ARRAYS[f"out/ade_eval_{record.instance}/ori_obj_sem_seg_gt"]
        mask = np.zeros(raw.shape, bool)
        mask[region.box] = region.mask.numpy()
        np.testing.assert_array_equal(mask, raw == record.object_id)


def test_splits_of_the_tree(reader):
    person, bus, lamp, stool = "person", "bus", "lamp", "stool"
    one, two, val = "ADE_train_00000001", "ADE_train_00000002", "ADE_val_00000001"
    training = [(one, person), (one, bus), (two, lamp), (two, stool), (two, lamp)]
    tested = [(val, person), (val, person), (val, bus)]
    assert [r.image_id for r in reader.records("train")] == list(PICTURES["train"])
    assert named(reader.records("train_obj_condition")) == training
    assert named(reader.records("train_few_shot")) == training[2:]
    assert named(reader.records("val_obj_condition")) == [*tested, (one, bus), (two, stool)]
    assert named(reader.records("val_few_shot")) == [*tested, (one, bus)]
    assert len({(r.image_id, r.instance) for r in reader.records("val_obj_condition")}) == 5
    assert {split: reader.training_vocabulary(split).name for split in SPLITS} == {
        "train": "ade20k_part_234_seen",
        "train_obj_condition": "ade20k_part_234_seen",
        "train_few_shot": "ade20k_part_234",
        "val_obj_condition": "ade20k_part_234",
        "val_few_shot": "ade20k_part_234",
    }
    with pytest.raises(ValueError, match="ADE20K-Part-234 has no split 'val'; there are train, "):
        reader.records("val")


def test_objects_are_painted_in_file_order_but_regions_are_whole(reader):
    size, objects = PICTURES["train"]["ADE_train_00000001"]
    expected = np.full(size, 65535, np.uint16)
    for name, box, _, _ in objects:
        expected[box_mask(size, box)] = VOC.object_id(name)
    person, bus = reader.instances("train")[:2]
    object_map, parts = reader.label_maps(person)
    assert object_map.dtype == parts.dtype == np.uint16
    np.testing.assert_array_equal(object_map, expected)
    np.testing.assert_array_equal(parts, part_map(size, objects))
    for record, (_, box, _, _) in zip((person, bus), objects, strict=True):
        np.testing.assert_array_equal(reader.region(record, object_map), box_mask(size, box))
    assert (object_map[reader.region(person, object_map)] == VOC.object_id("bus")).any()


def test_counts_equal_brute_force(reader):
    for split in SPLITS:
        for record in reader.records(split):
            object_map, parts = reader.label_maps(record)
            seen = parts if record.object_id is None else parts[reader.region(record, object_map)]
            for part in [*np.unique(parts), 7, 233]:
                if part != 65535:
                    assert reader.has_part(split, record, [int(part)]) == bool((seen == part).any())
    counts = reader.scan("val_obj_condition")
    assert counts.image_ids == ("ADE_val_00000001", *PICTURES["train"])
    for record in reader.pairs("train"):
        object_map, parts = reader.label_maps(record)
        pairs, pixels = np.unique(np.stack([object_map, parts], -1).reshape(-1, 2), axis=0, return_counts=True)
        np.testing.assert_array_equal(counts.by_image[record.image_id], np.column_stack([pairs, pixels]))


def test_class_frequencies_of_a_joined_split(reader):
    table = class_frequencies(reader, "val_obj_condition").set_index("part")
    listed = {r.image_id: r for r in reader.records("val_obj_condition")}.values()
    wheel = VOC.part_id("bus's wheel")
    assert table.loc["bus's wheel", "pixels"] == sum((reader.label_maps(r)[1] == wheel).sum() for r in listed) > 0
    assert table.loc["bus's wheel", "images"] == 1 and not table.loc["bus's wheel", "seen"]


def test_evaluation_sees_each_image_once_with_all_its_instances(reader):
    dataset = EvaluationDataset(reader)
    assert dataset.image_ids == ("ADE_train_00000001", "ADE_train_00000002", "ADE_val_00000001")
    # all three: the bus has no part of its own, but stands in front of a leg, which is ground truth as released
    assert dataset.skipped_records == 0 and len(dataset[2].regions) == 3
    assert [VOC.objects[i] for i in dataset[2].object_ids] == ["person", "person", "bus"]
    bus = dataset[2].regions[2]
    assert set(dataset[2].part_map[bus.box][bus.mask].unique().tolist()) == {VOC.part_id("person's leg"), 65535}
    assert EvaluationDataset(reader, "val_few_shot").image_ids == ("ADE_train_00000001", "ADE_val_00000001")


def test_training_skips_what_has_no_seen_part(reader):
    train = TrainingDataset(reader, "train")
    assert ([r.image_id for r in train.records], train.skipped) == (["ADE_train_00000001", "ADE_train_00000002"], 1)
    sample = train[0]
    names = [VOC.seen.parts[i] for i in sample["part_map"].unique().tolist() if i != 65535]
    assert set(names) == {"person's head", "person's torso"}
    conditioned = TrainingDataset(reader, "train_obj_condition")
    kept = [("ADE_train_00000001", "person"), ("ADE_train_00000002", "lamp")]
    assert (named(conditioned.records), conditioned.skipped) == (kept, 3)
    few = TrainingDataset(reader, "train_few_shot")
    assert (named(few.records), few.skipped) == ([("ADE_train_00000002", "lamp"), ("ADE_train_00000002", "stool")], 1)


def test_training_remap_keeps_names_and_loses_everything_unseen(reader):
    """All 65,536 values a label file can hold."""
    dataset = TrainingDataset(reader, "train")
    for table, old, new in (
        (dataset._tables["part_map"], VOC.parts, VOC.seen.parts),
        (dataset._tables["object_map"], VOC.objects, VOC.seen.objects),
    ):
        assert len(table) == 65536
        for label, mapped in enumerate(table.tolist()):
            kept = label < len(old) and old[label] in new
            assert (new[mapped] == old[label]) if kept else mapped == 65535


def test_datasets_can_be_sent_to_spawned_workers(reader):
    dataset = TrainingDataset(reader, "train_obj_condition")
    sample, copy = dataset[0], pickle.loads(pickle.dumps(dataset))[0]
    assert all(torch.equal(sample[key], copy[key]) for key in ("image", "part_map", "object_map"))


def test_an_image_of_both_folders_keeps_its_records_apart(ade_root):
    def rename(data):
        data["images"][-1]["file_name"] = "ADE_val_00000001.jpg"

    for kind, suffix in (("images", ".jpg"), ("annotations_detectron2_part", ".png")):
        folder = ade_root / kind / "training"
        (folder / f"ADE_train_00000001{suffix}").rename(folder / f"ADE_val_00000001{suffix}")
    reader = edited(ade_root, "train", rename)
    dataset = EvaluationDataset(reader)
    assert dataset.image_ids == ("ADE_train_00000002", "ADE_val_00000001", "training/ADE_val_00000001")
    assert dataset[1].part_map.shape == (33, 47) and dataset[2].part_map.shape == (40, 60)
    assert "training/ADE_val_00000001" in reader.scan("val_obj_condition").image_ids


def test_second_reader_takes_counts_from_the_cache_until_a_file_changes(ade_root, monkeypatch):
    first = ADE20KPart234(ade_root)
    record = first.instances("train")[0]
    rows = first.scan("train").rows
    with monkeypatch.context() as patch:
        patch.setattr(ADE20KPart234, "read_label", lambda *_: pytest.fail("labels were read again"))
        second = ADE20KPart234(ade_root)
        np.testing.assert_array_equal(second.scan("train").rows, rows)
        assert second.has_part("train_obj_condition", record, [VOC.part_id("person's head")])
    path = ade_root / JSON.format("train")
    os.utime(path, (1, 1))
    monkeypatch.setattr(ADE20KPart234, "read_label", lambda *_: pytest.fail("read"))
    with pytest.raises(pytest.fail.Exception):
        ADE20KPart234(ade_root).scan("train")


def test_16_bit_labels_saved_as_8_bit_are_refused(ade_root):
    save(ade_root / PART.format("validation", "ADE_val_00000001"), np.full((33, 47), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"ADE_val_00000001\.png: label file has mode L; 16-bit labels"):
        EvaluationDataset(ADE20KPart234(ade_root))


def test_part_value_out_of_range(ade_root):
    save(ade_root / PART.format("validation", "ADE_val_00000001"), np.full((33, 47), 234, np.uint16))
    with pytest.raises(DatasetError, match=r"out of range: 234 in 1551 pixels; values are 0\.\.233 and 65535"):
        ADE20KPart234(ade_root).scan("val_obj_condition")


def test_part_file_of_another_size(ade_root):
    save(ade_root / PART.format("validation", "ADE_val_00000001"), np.full((33, 48), 65535, np.uint16))
    with pytest.raises(DatasetError, match=r"0001\.png: 33×48 .* does not fit .*ade20k_instance_val\.json with 33×47"):
        ADE20KPart234(ade_root).scan("val_obj_condition")


def test_picture_of_another_size(ade_root):
    save(ade_root / "images/validation/ADE_val_00000001.jpg", picture((40, 47), 0))
    with pytest.raises(DatasetError, match=r"0001\.png: 33×47 .* does not fit .*0001\.jpg with 40×47"):
        EvaluationDataset(ADE20KPart234(ade_root))[2]


def test_instance_outside_its_image(ade_root):
    def move(data):
        data["annotations"][0]["segmentation"] = [[70, 4, 90, 4, 90, 20]]

    reader = edited(ade_root, "train", move)
    with pytest.raises(DatasetError, match=r"_train\.json: annotation 11 of ADE_train_00000001\.jpg lies outside its"):
        TrainingDataset(reader, "train")


def test_missing_files(ade_root, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such folder\. ADE20K-Part-234 is expected there: images and"):
        ADE20KPart234(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"The dataset seems to be .*ADE20KPart234: give that folder"):
        ADE20KPart234(ade_root.parent).records("train")
    (ade_root / PART.format("training", "ADE_train_00000003")).unlink()
    with pytest.raises(DatasetError, match=r"ADE_train_00000003\.png: no such file, but the other files"):
        ADE20KPart234(ade_root).scan("train")
    (ade_root / JSON.format("val")).unlink()
    with pytest.raises(DatasetError, match=r"ade20k_instance_val\.json: no such file"):
        ADE20KPart234(ade_root).records("val_obj_condition")


def test_two_pictures_of_one_name(ade_root):
    def rename(data):
        data["images"][0]["file_name"] = "ADE_train_00000001.png"

    with pytest.raises(DatasetError, match="two pictures that differ in nothing but their extension"):
        edited(ade_root, "train", rename).records("train")


def test_no_instances_at_all(ade_root):
    reader = edited(ade_root, "train", lambda data: data.update(annotations=[]))
    assert len(reader.records("train")) == 3
    with pytest.raises(DatasetError, match=r"_train\.json: lists no instances"):
        reader.records("train_obj_condition")


def test_shots(ade_root, caplog):
    path = ade_root / "train_16shot.json"
    names = ["elsewhere/images/training/ADE_train_00000001.jpg", "images/validation/ADE_train_00000002.jpg", "gone.jpg"]
    path.write_text(json.dumps([{"file_name": name} for name in names]))
    with caplog.at_level(logging.WARNING):
        assert {r.image_id for r in ADE20KPart234(ade_root).records("train_few_shot")} == {"ADE_train_00000001"}
    assert "1 of 2 images are missing" in caplog.text
    path.write_text("[]")
    with pytest.raises(DatasetError, match="names no image of the training folder"):
        ADE20KPart234(ade_root).records("train_few_shot")
    path.unlink()
    with pytest.raises(DatasetError, match="16-shot list released with ADE20K-Part-234; put it there"):
        ADE20KPart234(ade_root).records("val_few_shot")

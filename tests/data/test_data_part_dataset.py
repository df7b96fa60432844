import json

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset, collate_training, replaced_as_released
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.labels import read_labels
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.transforms import ResizeShortestEdge, training_transform
from tests.data.released_layout import GOLDEN, VOC, picture, save

ARRAYS = np.load(GOLDEN / "mapper_pascal.npz")
CASES = json.loads((GOLDEN / "mapper_pascal.json").read_text())["cases"]
LISTING = json.loads((GOLDEN / "listing_pascal.json").read_text())
SEEN = VOC.seen


@pytest.fixture(scope="module")
def golden_root(tmp_path_factory):
    """The golden input as train and val of a dataset, its picture stored losslessly."""
    root = tmp_path_factory.mktemp("golden") / "PascalPart116"
    for split in ("train", "val"):
        save(root / "images" / split / "one.png", ARRAYS["in/pascal/image"])
        (root / "images" / split / "one.png").rename(root / "images" / split / "one.jpg")
        for kind in ("obj", "part"):
            save(root / f"annotations_detectron2_{kind}" / split / "one.png", ARRAYS[f"in/pascal/{kind}"])
    (root / "train_16shot.json").write_text('[{"file_name": "images/train/one.jpg"}]')
    return root


def golden_dataset(root, name, transform, **options):
    """The dataset of a golden case, and its one sample's index (None if it is not among the records)."""
    case = CASES[name]
    split = case["split"].removeprefix("voc_obj_part_sem_seg_")
    dataset = TrainingDataset(PascalPart116(root), split, transform, **options)
    wanted = [i for i, r in enumerate(dataset.records) if r.object_id == case.get("category_id")]
    return dataset, wanted[0] if wanted else None


def golden_transform(name):
    case = CASES[name]
    if not case["is_train"]:
        return ResizeShortestEdge(case["MIN_SIZE_TEST"], case["MAX_SIZE_TEST"], "floor")
    pad = case["SIZE_DIVISIBILITY"] if case["SIZE_DIVISIBILITY"] > 0 else None
    return training_transform(
        shortest_edge=45,
        longest_edge=80,
        flip=float(case["flip"]),
        pad_size=pad,
        ignore_label=255 if pad else None,
        label_resize="floor",
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "result" not in case])
def test_samples_equal_the_released_mapper(golden_root, name):
    dataset, index = golden_dataset(golden_root, name, golden_transform(name))
    sample = dataset[index]
    out = f"out/{name}/"
    np.testing.assert_array_equal(sample["image"].numpy(), ARRAYS[out + "image"])
    np.testing.assert_array_equal(sample["part_map"].numpy(), ARRAYS[out + "obj_part_sem_seg"])
    np.testing.assert_array_equal(sample["object_map"].numpy(), ARRAYS[out + "sem_seg"])
    assert sample["image"].dtype == torch.uint8
    assert sample["part_map"].dtype == sample["object_map"].dtype == torch.uint8
    assert type(sample["image"]) is type(sample["part_map"]) is torch.Tensor


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "result" in case])
def test_samples_the_released_mapper_drops_are_skipped(golden_root, name):
    case = CASES[name]
    dataset, index = golden_dataset(golden_root, name, golden_transform(name))
    listed = PascalPart116(golden_root).records(dataset.split)
    assert index is None
    assert case["category_id"] in {record.object_id for record in listed}
    assert dataset.skipped == len(listed) - len(dataset) > 0


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["is_train"] and "result" not in case])
def test_native_maps_equal_the_mappers_originals(golden_root, name):
    """Before any geometric transform; the mapper's originals are remapped but not conditioned on an object."""
    dataset, index = golden_dataset(golden_root, name, None)
    part_map, object_id = ARRAYS[f"out/{name}/ori_obj_part_sem_seg_gt"], dataset.records[index].object_id
    if object_id is not None:
        part_map = np.where(ARRAYS["in/pascal/obj"] == object_id, part_map, 255)
    np.testing.assert_array_equal(dataset[index]["part_map"].numpy(), part_map)


def test_evaluation_sample_equals_the_mappers_originals(golden_root):
    dataset = EvaluationDataset(PascalPart116(golden_root))
    sample = dataset[0]
    assert len(dataset) == 1
    assert [VOC.objects[i] for i in sample.object_ids] == ["aeroplane", "dog", "person"]
    assert dataset.skipped_records == 1  # the chair, whose case is dropped
    np.testing.assert_array_equal(sample.part_map.numpy(), ARRAYS["out/pascal_eval_dog/ori_obj_part_sem_seg_gt"])
    np.testing.assert_array_equal(sample.object_map.numpy(), ARRAYS["out/pascal_eval_dog/ori_obj_sem_seg_gt"])
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), ARRAYS["in/pascal/image"])


def test_replacement_serves_the_released_sequence():
    golden = LISTING["dropped_sample_replacement"]
    useful = [index not in golden["empty"] for index in range(golden["num_records"])]
    assert replaced_as_released(useful, golden["requested"]) == golden["served"]


def test_training_skips_and_counts_samples_without_seen_parts(reader):
    dataset = TrainingDataset(reader, "train")
    assert [r.image_id for r in dataset.records] == ["2008_000003", "2008_000007", "2009_000012"]
    assert dataset.skipped == 2  # the dog alone is unseen, the chair has no parts
    assert dataset.vocabulary == SEEN
    few = TrainingDataset(reader, "train_few_shot")
    assert (len(few), few.skipped, few.vocabulary) == (2, 0, VOC)
    conditioned = TrainingDataset(reader, "train_obj_condition")
    names = [(r.image_id, VOC.objects[r.object_id]) for r in conditioned.records]
    assert names == [
        ("2008_000003", "aeroplane"),
        ("2008_000007", "person"),
        ("2009_000012", "bus"),
        ("2009_000012", "cat"),
    ]
    assert conditioned.skipped == 3


def test_whole_images_are_flattened_to_one_object_each(reader):
    flat = TrainingDataset(reader, "train", per_object=True)
    assert flat.records == TrainingDataset(reader, "train_obj_condition").records
    few = TrainingDataset(reader, "train_few_shot", per_object=True)
    for sample, record in zip((few[i] for i in range(len(few))), few.records, strict=True):
        assert sample["object_map"].unique().tolist() == [record.object_id, VOC.ignore_label]
        assert (sample["part_map"] != VOC.ignore_label).any()
    assert len({(record.image_id, record.object_id) for record in few.records}) == len(few) > 2


def test_no_unseen_class_is_left_in_training_labels(reader):
    dataset = TrainingDataset(reader, "train")
    for i, record in enumerate(dataset.records):
        object_map, part_map = reader.label_maps(record)
        sample = dataset[i]
        for raw, new, old_names, new_names in (
            (part_map, sample["part_map"].numpy(), VOC.parts, SEEN.parts),
            (object_map, sample["object_map"].numpy(), VOC.objects, SEEN.objects),
        ):
            for before, after in np.unique(np.stack([raw, new], -1).reshape(-1, 2), axis=0):
                kept = before != 255 and old_names[before] in new_names
                assert after == (new_names.index(old_names[before]) if kept else 255)


def test_a_crop_without_parts_is_served_all_the_same(reader):
    far_corner = v2.Lambda(lambda t: t[..., -3:, -3:])
    sample = TrainingDataset(reader, "train", far_corner)[0]
    assert (sample["part_map"] == 255).all() and sample["part_map"].shape == (3, 3)


def test_evaluation_groups_records_by_image(reader):
    dataset = EvaluationDataset(reader)
    assert dataset.image_ids == ("2010_000001", "2010_000003")
    assert [tuple(VOC.objects[i] for i in sample.object_ids) for sample in (dataset[0], dataset[1])] == [
        ("dog", "person"),
        ("car",),
    ]
    assert dataset.skipped_records == 2  # chair beside the dog, sofa alone
    assert [dataset.skipped_among(images) for images in (1, 2, 9)] == [1, 2, 2]
    assert dataset.vocabulary == VOC
    assert tuple(dataset[0].image.shape) == (3, 33, 47) and dataset[0].part_map.shape == (33, 47)


def test_evaluation_replacement_duplicates_records_as_served(reader):
    """One process, no workers: records are asked for in order, and each empty one makes another be served twice."""
    records = reader.records("val_obj_condition")
    useful = {("2010_000001", "dog"), ("2010_000001", "person"), ("2010_000003", "car")}
    names = [(r.image_id, VOC.objects[r.object_id]) for r in records]
    expected = sorted(names[index] for index in replaced_as_released([name in useful for name in names], range(5)))
    dataset = EvaluationDataset(reader, empty_samples="replace_as_released")
    served = [(s.image_id, VOC.objects[o]) for s in (dataset[i] for i in range(len(dataset))) for o in s.object_ids]
    assert sorted(served) == expected and len(served) == len(records) == 5
    assert dataset.skipped_records == 2


def test_evaluation_needs_conditioned_records(reader):
    with pytest.raises(ValueError, match="split 'val' are not conditioned on objects; use val_obj_condition"):
        EvaluationDataset(reader, "val")


def test_picture_of_another_size_than_its_labels(root):
    save(root / "images/train/2008_000003.jpg", picture((41, 60), 0))
    dataset = TrainingDataset(PascalPart116(root), "train")
    with pytest.raises(DatasetError, match=r"_part/train/2008_000003\.png: 40×60 .*images/train/.*\.jpg with 41×60"):
        dataset[0]


def test_nothing_to_train_on(root):
    for path in (root / "annotations_detectron2_part/train").iterdir():
        save(path, np.full_like(read_labels(path), 255))
    with pytest.raises(
        DatasetError, match="'train' has no record with a part of the vocabulary 'pascal_part_116_seen'"
    ):
        TrainingDataset(PascalPart116(root), "train")


def test_collate(reader):
    dataset = TrainingDataset(reader, "train")
    batch = collate_training([dataset[0], dataset[1]])
    assert set(batch) == {"images", "part_maps", "object_maps", "image_ids", "vocabulary"}
    assert batch["image_ids"] == ["2008_000003", "2008_000007"] and batch["vocabulary"] is dataset.vocabulary
    assert [tuple(m.shape) for m in batch["part_maps"]] == [(40, 60), (52, 36)]

import json
import shutil

import numpy as np
import pytest

from ovparts_lib.data.audit import instance_table
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.registry import verify_dataset
from tests.data.ade_layout import VOC
from tests.data.released_layout import picture, save

JPEG, PART = "images/validation/ADE_val_00000001.jpg", "annotations_detectron2_part/validation/ADE_val_00000001.png"
TRAIN, VAL = "ade20k_instance_train.json", "ade20k_instance_val.json"


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_good_data(ade_root):
    report = verify_dataset("ade20k_part_234", ade_root)
    assert report.ok and report.dataset == "ADE20K-Part-234"
    train, val = report.counts["train"], report.counts["val"]
    assert (train["complete samples"], val["complete samples"]) == (3, 1)
    assert (train["object instances"], val["object instances"]) == (5, 3)
    assert (train["instances of unseen objects"], val["instances of unseen objects"]) == (2, 1)
    assert (train["instances without part pixels"], val["instances without part pixels"]) == (1, 0)
    assert train["samples without any part"] == 1 and train["images of the 16-shot list"] == 1
    reader = ADE20KPart234(ade_root)
    pixels = dict.fromkeys(VOC.parts, 0)
    for record in reader.pairs("train"):
        parts = reader.label_maps(record)[1]
        for part in np.unique(parts[parts != 65535]):
            pixels[VOC.parts[part]] += int((parts == part).sum())
    unseen = sum(count for name, count in pixels.items() if not VOC.is_seen(VOC.part_id(name)))
    assert train["part pixels"] == sum(pixels.values())
    assert train["part pixels of unseen classes, removed for training"] == unseen > 0
    # of the leg behind the bus: rows 20-31, columns 30-44
    assert val["part pixels on another object"] == 11 * 14
    assert "train: 3 samples; published are 7,347 (OV-PARTS and PartCLIPSeg papers, not re-counted)" in report.notes
    assert any(
        n.startswith(
            "val_obj_condition: 5 records in 3 images, of which 2 are instances of unseen objects in 2 training images"
        )
        for n in report.notes
    )
    assert any(n.startswith("val_few_shot: 4 records in 2 images, of which 1 are") for n in report.notes)


def outside(data):
    data["annotations"][0]["segmentation"] = [[70, 4, 90, 4, 90, 20]]


def bad_category(data):
    data["annotations"][0]["category_id"] = 44


def taller(data):
    data["images"][0]["height"] = 34
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[1, 1, 5, 1, 5, 5]]


DAMAGES = {
    "8-bit labels": (lambda r: save(r / PART, np.full((33, 47), 255, np.uint8)), PART, "16-bit labels are expected"),
    "labels of another size": (
        lambda r: save(r / PART, np.full((33, 48), 65535, np.uint16)),
        PART,
        "33×48 (height × width) does not fit",
    ),
    "part out of range": (lambda r: save(r / PART, np.full((33, 47), 234, np.uint16)), PART, "out of range: 234 in"),
    "truncated labels": (lambda r: (r / PART).write_bytes((r / PART).read_bytes()[:90]), PART, "cannot be decoded"),
    "missing labels": (lambda r: (r / PART).unlink(), PART, f"no such part label file, but {VAL} lists it"),
    "missing picture": (lambda r: (r / JPEG).unlink(), JPEG, f"no such picture, but {VAL} lists it"),
    "no picture at all": (lambda r: (r / JPEG).write_bytes(b"<html>"), JPEG, "cannot be decoded"),
    "missing folder": (lambda r: shutil.rmtree(r / "images/validation"), "images/validation", "no such folder"),
    "missing instances": (lambda r: (r / VAL).unlink(), VAL, "no such file"),
    "broken instances": (lambda r: (r / VAL).write_text("{"), VAL, "is not readable JSON"),
    "wrong ids": (lambda r: edit(r / VAL, bad_category), VAL, "annotation 11 has category_id 44"),
    "no images listed": (
        lambda r: edit(r / VAL, lambda d: d.update(images=[], annotations=[])),
        VAL,
        "lists no images",
    ),
    "instance outside": (lambda r: edit(r / TRAIN, outside), TRAIN, "lies outside its image"),
    "wrong size listed": (lambda r: edit(r / VAL, taller), VAL, "34×47 (height × width) does not fit"),
    "damaged shot list": (
        lambda r: (r / "train_16shot.json").write_text("[{"),
        "train_16shot.json",
        "is not readable JSON",
    ),
    "shots that are not there": (
        lambda r: (r / "train_16shot.json").write_text('[{"file_name": "images/training/x.jpg"}]'),
        "train_16shot.json",
        "1 of 1 images it names are not in images/training, for example x",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_one_problem_naming_its_file(ade_root, damage):
    assert verify_dataset("ade20k_part_234", ade_root).ok  # and its cached report must not hide what happens next
    do, file, message = DAMAGES[damage]
    do(ade_root)
    report = verify_dataset("ade20k_part_234", ade_root)
    assert [problem.file for problem in report.problems] == [str(ade_root / file)]
    assert message in report.problems[0].what and report.problems[0].what_to_do


def test_dropped_polygons_and_unused_files_are_reported(ade_root):
    def breaks(data):
        data["annotations"][0]["segmentation"].append([1, 1, 2, 2])
        data["annotations"][1]["segmentation"] = [[1, 1, 2, 2]]
        del data["annotations"][2]["segmentation"]

    edit(ade_root / TRAIN, breaks)
    save(ade_root / "images/training/unlisted.jpg", picture((20, 20), 3))
    (ade_root / "images/training/._ADE.jpg").write_bytes(b"\x00\x05\x16\x07")
    report = verify_dataset("ade20k_part_234", ade_root)
    counts = report.counts["train"]
    assert report.ok and counts["object instances"] == 3
    assert counts["polygons with fewer than 3 points or an odd number of coordinates, dropped"] == 2
    assert counts["annotations without any valid polygon, dropped"] == 1
    assert counts["annotations without a segmentation, dropped"] == 1
    assert "train: files of no listed image, not used: 1, as unlisted.jpg" in report.notes


def test_pictures_shared_by_train_and_val(ade_root):
    shutil.copy(ade_root / JPEG, ade_root / "images/training/ADE_train_00000003.jpg")
    save(ade_root / "annotations_detectron2_part/training/ADE_train_00000003.png", np.full((33, 47), 65535, np.uint16))
    edit(ade_root / TRAIN, lambda data: data["images"][0].update(height=33, width=47))
    (problem,) = verify_dataset("ade20k_part_234", ade_root).problems
    assert problem.file == str(ade_root / JPEG) and problem.what.startswith("is also a training picture: ")


def test_no_shot_list_is_a_note(ade_root):
    (ade_root / "train_16shot.json").unlink()
    report = verify_dataset("ade20k_part_234", ade_root)
    assert report.ok and any("everything but few-shot training works" in note for note in report.notes)


def test_fingerprint_changes_with_instances_and_pictures(ade_root):
    seen = {verify_dataset("ade20k_part_234", ade_root).fingerprint}
    edit(ade_root / TRAIN, lambda data: data["annotations"].pop())
    seen.add(verify_dataset("ade20k_part_234", ade_root).fingerprint)
    save(ade_root / JPEG, picture((33, 47), 77))
    seen.add(verify_dataset("ade20k_part_234", ade_root).fingerprint)
    assert len(seen) == 3


def test_readers_use_the_counts_of_the_check(ade_root, monkeypatch):
    verify_dataset("ade20k_part_234", ade_root)
    monkeypatch.setattr(ADE20KPart234, "read_label", lambda *_: pytest.fail("labels were read again"))
    assert TrainingDataset(ADE20KPart234(ade_root), "train_obj_condition").skipped == 3


def test_instance_table(ade_root):
    table = instance_table(ADE20KPart234(ade_root)).set_index("object")
    assert table.loc[["person", "bus", "lamp", "stool", "bed"]].values.tolist() == [
        [True, 1, 2, 2],
        [False, 1, 1, 2],
        [True, 2, 0, 0],
        [False, 1, 0, 1],
        [True, 0, 0, 0],
    ]

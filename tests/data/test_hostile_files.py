"""The check of a dataset goes on whatever it meets, and says what that is."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from ovparts_lib.data.coco_instances import MAX_POINTS
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.registry import verify_dataset
from tests.data.released_layout import VOC

JPEG, PART, OBJECT = (
    "images/val/2010_000001.jpg",
    "annotations_detectron2_part/val/2010_000001.png",
    "annotations_detectron2_obj/val/2010_000001.png",
)
INSTANCES = "ade20k_instance_train.json"


def problems(root, dataset="pascal_part_116"):
    return {problem.file: problem.what for problem in verify_dataset(dataset, root).problems}


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.jpg")


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "message"), [(dangling, "link to a file that is not there"), (loop, "cannot be read"), (pipe, "pipe")]
)
@pytest.mark.parametrize("file", [JPEG, PART, OBJECT])
def test_links_to_nowhere_loops_and_pipes_are_named(root, damage, message, file):
    damage(root / file)
    (root / "images/val/2010_000003.jpg").write_bytes(b"damaged")  # and the others are checked all the same
    found = problems(root)
    assert message in found[str(root / file)]
    assert "cannot be decoded" in found[str(root / "images/val/2010_000003.jpg")]


def test_a_pipe_in_place_of_a_list_is_named(root):
    (root / "train_16shot.json").unlink()
    os.mkfifo(root / "train_16shot.json")
    assert "pipe" in problems(root)[str(root / "train_16shot.json")]


def test_a_name_that_is_not_utf_8_is_named(root):
    odd = os.fsencode(root / "images/val") + b"/2010_\xff.jpg"
    shutil.copyfile(root / JPEG, odd)
    ((file, what),) = problems(root).items()
    assert file.endswith("2010_\\udcff.jpg") and "not UTF-8" in what
    file.encode()


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("images/val"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "Permission denied" in problems(root)[str(root / "images/val")]


@pytest.mark.parametrize("kind", ["images", "annotations_detectron2_part"])
def test_two_files_that_differ_in_their_suffix_alone_are_both_named(root, kind):
    name = "2010_000001.jpg" if kind == "images" else "2010_000001.png"
    other = name.upper()
    shutil.copyfile(root / kind / "val" / name, root / kind / "val" / other)
    ((file, what),) = problems(root).items()
    both = file + what
    assert str(root / kind / "val" / name) in both and str(root / kind / "val" / other) in both
    with pytest.raises(ValueError, match="Keep one of the two"):
        PascalPart116(root).records("val")


def test_what_was_unreadable_once_is_read_again(root, monkeypatch):
    read_bytes = type(root).read_bytes

    def refuse(path):
        if path.name == "2010_000001.png":
            raise OSError(5, "Input/output error", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patched:
        patched.setattr(type(root), "read_bytes", refuse)
        assert "Input/output error" in problems(root)[str(root / PART)]
    assert verify_dataset("pascal_part_116", root).ok


def test_a_changed_file_of_the_same_size_and_time_is_noticed(root):
    assert verify_dataset("pascal_part_116", root).ok
    path, stat = root / JPEG, (root / JPEG).stat()
    content = path.read_bytes()
    time.sleep(0.02)  # longer than the file system's clock takes for one tick
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns and path.stat().st_size == stat.st_size
    assert not verify_dataset("pascal_part_116", root).ok


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kinds", [("obj",), ("part",), ("obj", "part")])
def test_a_background_that_was_saved_as_0_is_found(root, kinds, split):
    for kind in kinds:
        for path in (root / f"annotations_detectron2_{kind}" / split).glob("*.png"):
            labels = np.array(Image.open(path))
            Image.fromarray(np.where(labels == 255, 0, labels).astype(np.uint8)).save(path)
    found = verify_dataset("pascal_part_116", root).problems
    assert len(found) == len(kinds)
    for problem, kind in zip(found, kinds, strict=True):
        assert f"annotations_detectron2_{kind}/{split}" in problem.file
        assert "background seems to have been saved as 0" in problem.what


def test_one_picture_full_of_the_first_class_is_only_a_note(root):
    Image.fromarray(np.full((33, 47), VOC.part_id("aeroplane's body"), np.uint8)).save(root / PART)
    Image.fromarray(np.full((33, 47), VOC.object_id("aeroplane"), np.uint8)).save(root / OBJECT)
    report = verify_dataset("pascal_part_116", root)
    assert report.ok and any("background of these" in note for note in report.notes)


# JSON of instances


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def first_polygon(value):
    def change(data):
        data["annotations"][0]["segmentation"] = [value]

    return change


HUGE = int("1" + "0" * 400)
JSON_FAULTS = {
    "coordinates of 10^400": (first_polygon([HUGE, 1, 2, 3, 4, 5]), "no flat list of numbers"),
    "a polygon of 2 million points": (first_polygon([1.5] * 4_000_000), "2,000,000 points"),
    "height of 10^9": (lambda d: d["images"][0].update(height=10**9), "has 1000000000×"),
    "height of 10^400": (lambda d: d["images"][0].update(height=HUGE), "which should be a whole number"),
    "file name .": (lambda d: d["images"][0].update(file_name="."), "has the file_name '.'"),
    "file name ..": (lambda d: d["images"][0].update(file_name="a/.."), "has the file_name 'a/..'"),
    "a list for a name": (lambda d: d["images"][0].update(file_name=["a.jpg"]), "has the file_name ['a.jpg']"),
    "a zero byte in a name": (lambda d: d["images"][0].update(file_name="a\0.jpg"), "has the file_name"),
    "a drive in a name": (lambda d: d["images"][0].update(file_name="C:\\a.jpg"), "has the file_name"),
    "an id of 10^400": (lambda d: d["annotations"][0].update(id=HUGE), "which should be a whole number"),
    "run lengths of 10^400": (
        lambda d: d["annotations"][0].update(segmentation={"size": [40, 60], "counts": [HUGE, 1]}),
        "",
    ),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_hostile_json_is_reported_and_the_pictures_are_checked(ade_root, fault):
    change, message = JSON_FAULTS[fault]
    edit(ade_root / INSTANCES, change)
    pictures = sorted((ade_root / "images/training").glob("*.jpg"))
    pictures[-1].write_bytes(b"damaged")
    found = verify_dataset("ade20k_part_234", ade_root).problems
    assert any(p.file == str(ade_root / INSTANCES) and message in p.what for p in found)
    assert any(p.file == str(pictures[-1]) and "cannot be decoded" in p.what for p in found)


def test_every_error_of_a_json_is_reported(ade_root):
    def change(data):
        data["images"][0]["height"] = -1
        for number, annotation in enumerate(data["annotations"]):
            annotation["category_id"] = 99 + number

    edit(ade_root / INSTANCES, change)
    number = len(json.loads((ade_root / INSTANCES).read_text())["annotations"])
    whats = [p.what for p in verify_dataset("ade20k_part_234", ade_root).problems if p.file.endswith(INSTANCES)]
    assert sum("category_id" in what for what in whats) == number and any("height -1" in what for what in whats)


def test_categories_of_any_kind_do_no_harm(ade_root):
    edit(ade_root / INSTANCES, lambda data: data.update(categories=[{"id": 0, "name": ["a", "list"]}, 3, None]))
    assert verify_dataset("ade20k_part_234", ade_root).ok


def test_backslashes_are_read_as_slashes(ade_root):
    before = verify_dataset("ade20k_part_234", ade_root)
    for folder in ("images", "annotations_detectron2_part"):
        (ade_root / folder / "training/scene").mkdir()
        for path in (ade_root / folder / "training").glob("*.*"):
            path.rename(path.parent / "scene" / path.name)
    (ade_root / "train_16shot.json").unlink(missing_ok=True)

    def change(data):
        for image in data["images"]:
            image["file_name"] = f"scene\\{image['file_name']}"

    edit(ade_root / INSTANCES, change)
    after = verify_dataset("ade20k_part_234", ade_root)
    assert after.ok and after.counts["train"]["part pixels"] == before.counts["train"]["part pixels"]


def test_the_limit_of_points_is_far_from_real_outlines():
    assert MAX_POINTS >= 50_000

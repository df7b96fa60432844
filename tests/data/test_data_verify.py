import os
import shutil

import numpy as np
import pytest

import ovparts_lib.data.verify as module
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.registry import verify_dataset
from ovparts_lib.data.verification_report import Problem, VerificationReport, problem_table
from ovparts_lib.data.verify import removed_pixels
from tests.data.released_layout import VOC, picture, save

JPEG, PART = "images/val/2010_000001.jpg", "annotations_detectron2_part/val/2010_000001.png"
OBJECT = PART.replace("_part/", "_obj/")


def blank(size, value=255, dtype=np.uint8):
    return np.full(size, value, dtype)


def cut(path, keep=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_good_data(root):
    report = verify_dataset("pascal_part_116", root)
    assert report.ok
    report.raise_if_wrong()
    assert report.counts["train"]["complete samples"] == 5 and report.counts["val"]["complete samples"] == 3
    assert report.counts["train"]["images of the 16-shot list"] == 2
    assert report.counts["train"]["samples without any part"] == 1
    assert report.counts["val"]["(image, object) records"] == 5
    assert report.counts["val"]["records without part pixels"] == 2
    reader = PascalPart116(root)
    pixels = sum(int((reader.label_maps(r)[1] != 255).sum()) for r in reader.records("train"))
    assert report.counts["train"]["part pixels"] == pixels
    assert "train: 5 samples; published are 8,431 (OV-PARTS and PartCLIPSeg papers, not re-counted)" in report.notes
    page = report.to_markdown()
    assert page.startswith("# Pascal-Part-116: no problems") and report.fingerprint in page
    assert "| complete samples | 5 | 3 |" in page


DAMAGES = {
    "truncated picture": (lambda root: cut(root / JPEG), JPEG, "cannot be decoded"),
    "no picture at all": (lambda root: (root / JPEG).write_bytes(b"<html>404</html>"), JPEG, "cannot be decoded"),
    "empty picture file": (lambda root: (root / JPEG).write_bytes(b""), JPEG, "cannot be decoded"),
    "truncated labels": (lambda root: cut(root / PART), PART, "cannot be decoded"),
    "labels of another size": (
        lambda root: save(root / PART, blank((33, 48))),
        PART,
        "33×48 (height × width) does not fit",
    ),
    "objects of another size": (lambda root: save(root / OBJECT, blank((47, 33))), OBJECT, "47×33 (height × width)"),
    "part out of range": (
        lambda root: save(root / PART, blank((33, 47), 116)),
        PART,
        f"part label out of range: 116 in {33 * 47} pixels",
    ),
    "object out of range": (
        lambda root: save(root / OBJECT, blank((33, 47), 20)),
        OBJECT,
        "object label out of range: 20 in",
    ),
    "16-bit labels": (
        lambda root: save(root / PART, blank((33, 47), 3, np.uint16)),
        PART,
        "8-bit labels are expected",
    ),
    "colour labels": (lambda root: save(root / PART, picture((33, 47), 0)), PART, "mode RGB"),
    "missing picture": (lambda root: (root / JPEG).unlink(), PART, "has no picture of the same name"),
    "missing part labels": (lambda root: (root / PART).unlink(), OBJECT, "has no part labels of the same name"),
    "missing object labels": (lambda root: (root / OBJECT).unlink(), PART, "has no object labels of the same name"),
    "missing folder": (
        lambda root: shutil.rmtree(root / "images/val"),
        "images/val",
        "no such folder",
    ),
    "empty folder": (
        lambda root: [p.unlink() for p in (root / "images/val").iterdir()],
        "images/val",
        "holds no files of the dataset",
    ),
    "damaged shot list": (
        lambda root: (root / "train_16shot.json").write_text("[{"),
        "train_16shot.json",
        "is not readable JSON",
    ),
    "shots that are not there": (
        lambda root: (root / "train_16shot.json").write_text('[{"file_name": "images/train/1999_000001.jpg"}]'),
        "train_16shot.json",
        "1 of 1 images it names are not in images/train, for example 1999_000001",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_one_problem_naming_its_file(root, damage):
    assert verify_dataset("pascal_part_116", root).ok  # and its cached report must not hide what happens next
    do, file, message = DAMAGES[damage]
    do(root)
    report = verify_dataset("pascal_part_116", root)
    assert [problem.file for problem in report.problems] == [str(root / file)]
    assert message in report.problems[0].what and report.problems[0].what_to_do
    with pytest.raises(DatasetError, match="Pascal-Part-116 has 1 problem:") as caught:
        report.raise_if_wrong()
    assert str(root / file) in str(caught.value) and message in str(caught.value)
    assert message.replace("|", "\\|") in report.to_markdown()


def test_several_problems_are_all_reported_the_exception_shows_five(root):
    for path in sorted((root / "annotations_detectron2_part/train").iterdir()):
        cut(path, 0.3)
    cut(root / JPEG)
    (root / OBJECT).write_bytes(b"nothing")
    report = verify_dataset("pascal_part_116", root)
    assert len(report.problems) == 7
    assert list(problem_table(report.problems).columns) == ["file", "what", "what_to_do"]
    with pytest.raises(DatasetError, match=r"(?s)has 7 problems:.*and 2 more"):
        report.raise_if_wrong()


def test_missing_root(tmp_path):
    report = verify_dataset("pascal_part_116", tmp_path / "nowhere")
    assert not report.ok and report.problems[0].what == "no such folder"


def test_hidden_files_are_passed_over_and_unlabelled_pictures_noted(root):
    (root / "images/val/._2010_000001.jpg").write_bytes(b"\x00\x05\x16\x07")
    (root / "annotations_detectron2_part/val/._2010_000001.png").write_bytes(b"\x00\x05\x16\x07")
    save(root / "images/val/2011_000999.jpg", picture((20, 20), 1))
    report = verify_dataset("pascal_part_116", root)
    assert report.ok and report.counts["val"]["image files"] == 4
    assert "val: pictures without labels, not used: 1, as 2011_000999" in report.notes


def test_missing_shot_list_is_a_note(root):
    (root / "train_16shot.json").unlink()
    report = verify_dataset("pascal_part_116", root)
    assert report.ok and any("everything but few-shot training works" in note for note in report.notes)


def test_parts_on_other_objects_are_counted(root):
    parts, objects = blank((33, 47)), blank((33, 47))
    parts[:10, :10], objects[:10, :10] = VOC.part_id("cat's head"), VOC.object_id("cat")
    objects[:2, :10] = VOC.object_id("dog")  # 20 pixels of a cat's head on a dog
    objects[9, :7] = 255  # 7 outside every object
    save(root / PART, parts)
    save(root / OBJECT, objects)
    report = verify_dataset("pascal_part_116", root)
    assert report.ok
    assert report.counts["val"]["part pixels on another object"] == 20
    assert report.counts["val"]["part pixels outside every object"] == 7
    assert any(
        n.startswith("val: part pixels that lie on another object than their own: 20; images with such: 1, for")
        for n in report.notes
    )


def test_pictures_shared_by_train_and_val(root):
    shutil.copy(root / JPEG, root / "images/train/2008_000003.jpg")  # the same picture under another name
    size = (33, 47)
    for folder in ("annotations_detectron2_obj", "annotations_detectron2_part"):
        save(root / folder / "train/2008_000003.png", blank(size))
        save(root / folder / "train/2010_000003.png", blank(size))  # another picture under the same name
    save(root / "images/train/2010_000003.jpg", picture(size, 99))
    report = verify_dataset("pascal_part_116", root)
    assert [(p.file, p.what.split(":")[0]) for p in report.problems] == [
        (str(root / "images/val/2010_000001.jpg"), "is also a training picture"),
        (str(root / "images/val/2010_000003.jpg"), "is also a training picture"),
    ]


def test_pixels_of_unseen_classes_are_counted_where_the_remap_removes_them(root):
    reader, unseen = PascalPart116(root), {}
    for record in reader.records("train"):
        parts = reader.label_maps(record)[1]
        for part in np.unique(parts[parts != 255]):
            if not VOC.is_seen(int(part)):
                unseen[VOC.parts[part]] = unseen.get(VOC.parts[part], 0) + int((parts == part).sum())
    removed = removed_pixels(reader, "train", reader.scan("train"))
    assert removed == unseen and len(removed) == 3
    assert list(removed.values()) == sorted(removed.values(), reverse=True)
    report = verify_dataset("pascal_part_116", root)
    assert report.counts["train"]["part pixels of unseen classes, removed for training"] == sum(unseen.values())
    assert "part pixels of unseen classes, removed for training" not in report.counts["val"]
    (note,) = [note for note in report.notes if "remap to seen classes removes" in note]
    assert f"unseen parts from train and train_obj_condition: {next(iter(removed))} " in note
    assert removed_pixels(reader, "train_few_shot", reader.scan("train_few_shot")) == {}


def test_second_call_reads_the_cache_and_change_is_noticed(root, monkeypatch):
    first = verify_dataset("pascal_part_116", root)
    monkeypatch.setattr(module, "_inspect", lambda *_: pytest.fail("files were read again"))
    assert verify_dataset("pascal_part_116", root) == first
    monkeypatch.undo()
    save(root / JPEG, picture((33, 47), 77))
    changed = verify_dataset("pascal_part_116", root)
    assert changed.ok and changed.fingerprint != first.fingerprint


def test_fingerprint_is_of_contents_not_of_place_or_time(root, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    first, second = verify_dataset("pascal_part_116", root), verify_dataset("pascal_part_116", copy)
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 16
    assert int(first.fingerprint, 16) >= 0


def test_readers_use_the_counts_of_the_check(root, monkeypatch):
    verify_dataset("pascal_part_116", root)
    monkeypatch.setattr(PascalPart116, "read_label", lambda *_: pytest.fail("labels were read again"))
    assert TrainingDataset(PascalPart116(root), "train").skipped == 2


def test_a_report_escapes_tables():
    report = VerificationReport(
        "Data", "/root", [Problem("a|b.png", "two\nlines", "do")], ["note"], {"train": {"x": 1}}, "ab"
    )
    assert "| `a\\|b.png` | two lines | do |" in report.to_markdown()


def test_long_lists_of_problems_are_cut_on_the_page():
    report = VerificationReport("Data", "/root", [Problem(f"{i}.png", "wrong", "") for i in range(60)])
    assert "49.png" in report.to_markdown() and "50.png" not in report.to_markdown()
    assert "… and 10 more." in report.to_markdown() and len(report.problems) == 60

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ovparts_lib.data.ade20k_source as module
from ovparts_lib.data.ade20k_release import ReleaseClasses, read_codes
from ovparts_lib.data.ade20k_source import build_ade20k_part_234
from ovparts_lib.data.dataset import EvaluationDataset
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.registry import verify_dataset
from tests.data.ade_layout import VOC
from tests.data.ade_release import CAR, PERSON, WHEEL, box, encode, write_json, write_photo, write_release

STREET = "images/ADE/training/urban/street/ADE_train_00000007"
CLASSES = ReleaseClasses.load(VOC)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "ADE20K_2021_17_01")


@pytest.fixture
def source(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "ADE20K_2021_17_01"))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "built" / "ADE20KPart234"


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_mapping_covers_the_vocabulary():
    none, ignore = len(VOC.objects), VOC.ignore_label
    assert set(CLASSES.object_table.tolist()) == set(range(none + 1))
    assert set(CLASSES.part_table.ravel().tolist()) == {*range(len(VOC.parts)), ignore}
    assert (CLASSES.part_table[none] == ignore).all() and CLASSES.object_table[0] == none
    for object_id in range(none):
        parts = set(CLASSES.part_table[object_id].tolist()) - {ignore}
        assert parts == set(VOC.parts_of(object_id))
    assert VOC.objects[CLASSES.object_table[CAR]] == "car"
    assert VOC.parts[CLASSES.part_table[VOC.object_id("car"), WHEEL]] == "car's wheel"


def test_codes_are_read_as_the_release_defines_them(tmp_path):
    rng = np.random.default_rng(0)
    codes, instances = rng.integers(0, 3688, (9, 11)), rng.integers(0, 256, (9, 11))
    Image.fromarray(encode(codes, instances)).save(tmp_path / "x_seg.png")
    read = read_codes(tmp_path / "x_seg.png")
    np.testing.assert_array_equal(read[0], codes)
    np.testing.assert_array_equal(read[1], instances)


def test_built_labels(source, target):
    report = build_ade20k_part_234(source, target)
    assert report.ok
    reader = ADE20KPart234(target)
    record = reader.pairs("train")[0]
    assert [r.image_id for r in reader.pairs("train")] == ["ADE_train_00000007"]  # no part in the forest
    object_map, part_map = reader.label_maps(record)

    size = (40, 60)
    expected = np.full(size, 65535)
    for part, corners in (
        ("car's wheel", (30, 6, 36, 12)),  # its rim is no class and stays wheel
        ("car's door", (14, 14, 30, 28)),
        ("car's window", (15, 16, 20, 26)),  # of the door; the door's handle stays door
        ("person's head", (16, 45, 20, 49)),
    ):
        expected[box(size, corners)] = VOC.part_id(part)
    np.testing.assert_array_equal(part_map, expected)

    objects = np.full(size, 65535)
    first, second, person = (box(size, c) for c in ((10, 4, 36, 40), (14, 30, 34, 58), (16, 44, 30, 50)))
    objects[first | second], objects[person] = VOC.object_id("car"), VOC.object_id("person")
    np.testing.assert_array_equal(object_map, objects)
    regions = [reader.region(r, object_map) for r in reader.instances("train")]
    for region, visible in zip(regions, (first & ~second & ~person, second & ~person, person), strict=True):
        np.testing.assert_array_equal(region, visible)
    picture = source / f"{STREET}.jpg"
    assert record.image_path.read_bytes() == picture.read_bytes()


def test_instance_file_is_in_the_released_format(source, target):
    build_ade20k_part_234(source, target)
    data = json.loads((target / "ade20k_instance_train.json").read_text())
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in data["images"]] == [
        (1, "ADE_train_00000007.jpg", 40, 60)
    ]
    first = data["annotations"][0]
    assert (first["id"], first["image_id"], first["category_id"], first["iscrowd"]) == (1, 1, VOC.object_id("car"), 0)
    assert first["bbox"] == [4, 10, 36, 26] and first["area"] == 26 * 36 - 20 * 10
    parts = [VOC.parts[part] for part in first["part_category_id"]]
    assert sorted(parts) == ["car's door", "car's wheel", "car's window"]
    assert [c["name"] for c in data["categories"]] == list(VOC.objects)


def test_report(source, target):
    report = build_ade20k_part_234(source, target)
    counts = {what: [report.counts[split][what] for split in ("train", "val")] for what in report.counts["train"]}
    assert counts["pictures"] == [2, 1]
    assert counts["pictures taken"] == [1, 1]
    assert counts["pictures without a part of the vocabulary"] == [1, 0]
    assert counts["instances"] == [3, 1]
    assert counts["instances that are hidden completely, left out"] == [0, 1]
    objects = dict(zip(VOC.objects, report.found["objects"].tolist(), strict=True))
    assert objects["car"] == 2 and objects["bus"] == 1 and sum(objects.values()) == 4
    assert {name for name, count in objects.items() if count} == {"car", "person", "bus"}
    pixels = dict(zip(VOC.parts, report.found["parts"].tolist(), strict=True))
    assert pixels["car's window"] == 50 and pixels["car's door"] == 16 * 14 - 50
    assert pixels["bus's window"] == 8 * 30 - 16
    assert not report.problems
    assert "3 of 44 objects found; not: " in report.to_markdown()


def test_built_dataset_is_verified_read_and_evaluated(source, target):
    build_ade20k_part_234(source, target)
    report = verify_dataset("ade20k_part_234", target)
    assert report.ok and any("built from the full release of ADE20K" in note for note in report.notes)
    assert report.counts["train"]["part pixels on another object"] == 0
    reader = ADE20KPart234(target)
    dataset = EvaluationDataset(reader)
    assert dataset.image_ids == ("ADE_val_00000001",) and dataset.skipped_records == 0
    assert [VOC.objects[i] for i in dataset[0].object_ids] == ["bus"]


def test_a_source_without_validation_pictures(source, target):
    shutil.rmtree(source / "images/ADE/validation")
    report = build_ade20k_part_234(source, target)
    assert report.counts["val"]["pictures"] == 0 and (report.found["parts"] == 0).any()
    assert verify_dataset("ade20k_part_234", target).ok
    assert len(ADE20KPart234(target).records("train_obj_condition")) == 3


@pytest.mark.parametrize("inside", [".", "images", "images/ADE"])
def test_the_release_is_found_from_nearby_folders(source, target, inside):
    assert build_ade20k_part_234(source / inside, target).counts["train"]["pictures taken"] == 1


def test_the_release_is_found_from_above(source, target):
    assert build_ade20k_part_234(source.parent, target).counts["train"]["pictures taken"] == 1


def test_again_does_only_what_changed_and_gives_the_same_files(source, target, monkeypatch):
    first = build_ade20k_part_234(source, target)
    before = tree(target)
    done = []
    convert = module._entry_of
    monkeypatch.setattr(module, "_entry_of", lambda photo: (done.append(photo.picture.stem), convert(photo))[1])
    again = build_ade20k_part_234(source, target)
    assert done == [] and tree(target) == before
    assert str(again) == str(first) and again.found["parts"].tolist() == first.found["parts"].tolist()
    (target / "annotations_detectron2_part/training/ADE_train_00000007.png").unlink()
    (target / "images/training/ADE_train_00000007.jpg").unlink()
    build_ade20k_part_234(source, target)
    assert done == ["ADE_train_00000007"] and tree(target) == before
    shutil.copy(source / f"{STREET}.jpg", source / "images/ADE/validation/street/ADE_val_00000001.jpg")
    report = build_ade20k_part_234(source, target)  # now of another size than its annotations
    assert len(report.problems) == 1 and not list((target / "images/validation").iterdir())
    own = target / "images/validation/mine.jpg"
    shutil.copy(source / f"{STREET}.jpg", own)
    build_ade20k_part_234(source, target)
    assert own.is_file()


def test_a_stopped_build_goes_on(source, target, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_instances", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_ade20k_part_234(source, target)
    assert not (target / "ade20k_instance_train.json").exists()
    done = []
    convert = module._entry_of
    monkeypatch.setattr(module, "_entry_of", lambda photo: (done.append(photo.picture.stem), convert(photo))[1])
    assert build_ade20k_part_234(source, target).ok
    assert done == ["ADE_val_00000001"]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def entries(source, change):
    path = source / f"{STREET}.json"
    data = json.loads(path.read_bytes().decode("latin-1"))
    change(data["annotation"]["object"])
    write_json(path, data["annotation"]["object"])


MASK = f"{STREET}/instance_001_ADE_train_00000007.png"
DAMAGES = {
    "no annotation": (lambda s: (s / f"{STREET}.json").unlink(), f"{STREET}.json", "no such file"),
    "broken annotation": (lambda s: cut(s / f"{STREET}.json"), f"{STREET}.json", "is not an annotation as of ADE20K_2"),
    "other annotation": (lambda s: (s / f"{STREET}.json").write_text("[1]"), f"{STREET}.json", "is not an annotation"),
    "no class": (lambda s: entries(s, lambda e: e[1].pop("name_ndx")), f"{STREET}.json", "KeyError: 'name_ndx'"),
    "impossible class": (lambda s: entries(s, lambda e: e[1].update(name_ndx=9999)), f"{STREET}.json", "name_ndx 9999"),
    "mask elsewhere": (
        lambda s: entries(s, lambda e: e[1].update(instance_mask="../../secret.png")),
        f"{STREET}.json",
        "has the mask '../../secret.png'",
    ),
    "no objects": (lambda s: (s / f"{STREET}_seg.png").unlink(), f"{STREET}_seg.png", "no such file"),
    "grey objects": (
        lambda s: Image.open(s / f"{STREET}_seg.png").convert("L").save(s / f"{STREET}_seg.png"),
        f"{STREET}_seg.png",
        "has mode L; the release codes classes in the channels R and G",
    ),
    "truncated objects": (lambda s: cut(s / f"{STREET}_seg.png"), f"{STREET}_seg.png", "cannot be decoded"),
    "parts of another size": (
        lambda s: Image.new("RGB", (50, 40)).save(s / f"{STREET}_parts_2.png"),
        f"{STREET}_parts_2.png",
        "40×50 (height × width) does not fit",
    ),
    "a level of parts below another": (
        lambda s: (s / f"{STREET}_parts_1.png").unlink(),
        f"{STREET}_parts_1.png",
        "no such file, though ADE_train_00000007_parts_2.png is there",
    ),
    "mask of another size": (lambda s: Image.new("L", (50, 40)).save(s / MASK), MASK, "40×50 (height × width)"),
    "colour mask": (lambda s: Image.new("RGB", (60, 40)).save(s / MASK), MASK, "mode RGB"),
    "missing mask": (lambda s: (s / MASK).unlink(), MASK, "no such file"),
    "broken picture": (lambda s: cut(s / f"{STREET}.jpg"), f"{STREET}.jpg", "cannot be decoded"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_file_leaves_its_picture_out_and_is_reported(source, target, damage):
    do, file, message = DAMAGES[damage]
    do(source)
    report = build_ade20k_part_234(source, target)
    (problem,) = report.problems
    assert problem.file == str(source / file) and message in problem.what and problem.what_to_do
    assert report.counts["train"]["pictures left out for a wrong file"] == 1
    assert f"| `{problem.file}` | {problem.what} |" in report.to_markdown()
    assert not list((target / "images/training").iterdir())
    assert report.counts["val"]["pictures taken"] == 1


def test_missing_levels_are_counted(source, target):
    (source / f"{STREET}_parts_2.png").unlink()
    report = build_ade20k_part_234(source, target)
    assert report.ok and report.counts["train"]["pictures whose deepest parts have no PNG"] == 1
    assert report.found["parts"]["car's door"] == 16 * 14 and report.found["parts"]["car's window"] == 0


def test_missing_levels_are_counted_in_pictures_that_are_not_taken_for_it(source, target):
    """Without any part PNG a picture has no part pixels, and would otherwise be left out without a word."""
    for level in (1, 2):
        (source / f"{STREET}_parts_{level}.png").unlink()
    report = build_ade20k_part_234(source, target)
    counts = report.counts["train"]
    assert report.ok and (counts["pictures taken"], counts["pictures whose deepest parts have no PNG"]) == (0, 1)


def test_a_single_object_may_come_without_its_list(tmp_path, target):
    root = tmp_path / "ADE20K_2021_17_01"
    folder = root / "images/ADE/training/a"
    write_photo(folder, "one", (20, 20), [(0, PERSON, 0, (2, 2, 18, 18), {}), (1, 1206, 1, (2, 2, 6, 6), {})])
    data = json.loads((folder / "one.json").read_text())["annotation"]["object"]
    write_json(folder / "one.json", data[0])
    report = build_ade20k_part_234(root, target)
    assert report.ok and report.counts["train"]["instances"] == 1


def test_wrong_sources(source, target, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: is not there\. Give the folder ADE20K_2021_17_01"):
        build_ade20k_part_234(tmp_path / "nowhere", target)
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetError, match="holds neither images/ADE/training nor images/ADE/validation"):
        build_ade20k_part_234(tmp_path / "other", target)
    empty = tmp_path / "empty"
    (empty / "images/ADE/training/a").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no pictures"):
        build_ade20k_part_234(empty, target)
    shutil.copy(source / f"{STREET}.jpg", empty / "images/ADE/training/a/ADE_train_00000007.jpg")
    (empty / "images/ADE/training/a/ADE_train_00000007_atr.txt").touch()
    with pytest.raises(DatasetError, match=r"has no NAME\.json beside any picture"):
        build_ade20k_part_234(empty, target)
    shutil.copy(source / f"{STREET}.jpg", source / "images/ADE/training/ADE_train_00000007.jpg")
    with pytest.raises(DatasetError, match="has the same name as"):
        build_ade20k_part_234(source, target)
    assert not target.exists()


def test_a_folder_with_other_data_is_not_touched(source, ade_root, tmp_path):
    before = tree(ade_root)
    with pytest.raises(DatasetError, match="holds files that were not built from the release"):
        build_ade20k_part_234(source, ade_root)
    assert tree(ade_root) == before
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file: is a file"):
        build_ade20k_part_234(source, tmp_path / "file")

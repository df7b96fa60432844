import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

import ovparts_lib.data.readers.base as base
from ovparts_lib.data.audit import class_frequencies
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.registry import DATASETS
from tests.data.released_layout import GOLDEN, VOC, save

SPLITS = DATASETS["pascal_part_116"].settings
LISTING = json.loads((GOLDEN / "listing_pascal.json").read_text())


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """The golden file tree, its label files holding the objects that the golden json counts."""
    monkeypatch.chdir(tmp_path)
    counts = {}
    for path, content in LISTING["json_files"].items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(content))
        if path.endswith("_obj_label_count.json"):
            counts |= content
    for path in map(Path, LISTING["files"]):
        map_of_objects = np.full((8, 8), 255, np.uint8)
        for column, object_id in enumerate(counts.get(path.name, [])):
            map_of_objects[:, column] = object_id
        blank = np.full((8, 8), 255, np.uint8)
        save(path, map_of_objects if "_obj/" in str(path) else blank)
    return PascalPart116("datasets/PascalPart116")


@pytest.mark.parametrize("split", SPLITS)
def test_records_equal_the_released_listing(listed, split):
    expected = LISTING["records"][f"voc_obj_part_sem_seg_{split}"]
    records = listed.records(split)
    assert [(str(r.image_path), str(r.part_path), str(r.object_path), r.object_id, r.image_id) for r in records] == [
        (
            e["file_name"],
            e["sem_seg_file_name"],
            e["obj_sem_seg_file_name"],
            e.get("category_id"),
            Path(e["file_name"]).stem,
        )
        for e in expected
    ]


def test_every_golden_pascal_split_is_covered():
    assert {name.removeprefix("voc_obj_part_sem_seg_") for name in LISTING["records"]} == set(SPLITS)


def test_hidden_files_are_ignored(root):
    before = {split: PascalPart116(root).records(split) for split in SPLITS}
    for folder in ("images", "annotations_detectron2_obj", "annotations_detectron2_part"):
        for name in ("train", "val"):
            for suffix in (".jpg", ".png"):
                (root / folder / name / f"._2008_000003{suffix}").write_bytes(b"\x00\x05\x16\x07 not a picture")
    assert {split: PascalPart116(root).records(split) for split in SPLITS} == before


def test_pairs_by_name_when_positions_would_mislead(root):
    """Equal counts but different names: pairing by position would give an image the labels of another."""
    (root / "images/train/2008_000003.jpg").unlink()
    (root / "annotations_detectron2_part/train/2009_000012.png").unlink()
    records = PascalPart116(root).records("train")
    assert [r.image_id for r in records] == ["2008_000007", "2008_000009", "2009_000011"]
    assert all(r.image_path.stem == r.part_path.stem == r.object_path.stem for r in records)


def test_training_vocabularies(reader):
    assert {split: reader.training_vocabulary(split).name for split in SPLITS} == {
        "train": "pascal_part_116_seen",
        "train_obj_condition": "pascal_part_116_seen",
        "train_few_shot": "pascal_part_116",
        "val": "pascal_part_116",
        "val_obj_condition": "pascal_part_116",
    }


def test_label_maps_are_the_stored_bytes(reader):
    record = next(r for r in reader.records("train") if r.image_id == "2009_000012")
    object_map, part_map = reader.label_maps(record)
    assert object_map.dtype == part_map.dtype == np.uint8
    assert set(np.unique(object_map)) == {VOC.object_id("bus"), VOC.object_id("cat"), 255}
    assert set(np.unique(part_map)) == {VOC.part_id(p) for p in ("bus's wheel", "cat's head", "cat's tail")} | {255}


def test_scan_agrees_with_counting_each_pixel(reader):
    counts = reader.scan("val")
    for record in reader.records("val"):
        object_map, part_map = reader.label_maps(record)
        table = {(o, p): n for o, p, n in counts.by_image[record.image_id].tolist()}
        expected = {}
        for pair in zip(object_map.ravel().tolist(), part_map.ravel().tolist(), strict=True):
            expected[pair] = expected.get(pair, 0) + 1
        assert table == expected


def test_scan_is_cached_until_a_label_file_changes(root, monkeypatch):
    first = PascalPart116(root).scan("train")
    monkeypatch.setattr(base, "read_labels", lambda *_: pytest.fail("the cache was not used"))
    again = PascalPart116(root).scan("train")
    assert again.image_ids == first.image_ids
    np.testing.assert_array_equal(again.rows, first.rows)
    monkeypatch.undo()
    path = root / "annotations_detectron2_obj/train/2009_000011.png"
    save(path, np.full((44, 44), VOC.object_id("sofa"), np.uint8))
    os.utime(path, ns=(1, 1))
    ids = {r.object_id for r in PascalPart116(root).records("train_obj_condition") if r.image_id == "2009_000011"}
    assert ids == {VOC.object_id("sofa")}


def test_damaged_cache_is_counted_again(root):
    first = PascalPart116(root).scan("train")
    (root / ".ovparts_cache/label_counts_train.json").write_text("{ half a fi")
    np.testing.assert_array_equal(PascalPart116(root).scan("train").rows, first.rows)


def test_cache_that_cannot_be_written_is_a_warning_only(root, caplog):
    (root / "occupied").write_text("a file where the cache folder should be")
    reader = PascalPart116(root, cache_folder=root / "occupied")
    with caplog.at_level(logging.WARNING):
        assert len(reader.records("val_obj_condition")) == 5
    assert "cannot keep results" in caplog.text
    assert not list(root.glob("**/*.tmp"))


def test_class_frequencies_by_counting(reader):
    table = class_frequencies(reader, "train").set_index("part")
    maps = {r.image_id: reader.label_maps(r)[1] for r in reader.records("train")}
    for part_id, name in enumerate(VOC.parts):
        assert table.loc[name, "pixels"] == sum(int((m == part_id).sum()) for m in maps.values())
        assert table.loc[name, "images"] == sum(bool((m == part_id).any()) for m in maps.values())
    assert table.loc["dog's head", "images"] == 2
    assert not table.loc["dog's head", "seen"] and table.loc["cat's head", "seen"]
    assert list(table["object"].iloc[:1]) == ["aeroplane"]


def test_class_frequencies_of_a_listed_subset(reader):
    table = class_frequencies(reader, "train_few_shot").set_index("part")
    assert table.loc["cat's head", "pixels"] == 0
    assert table.loc["dog's head", "images"] == 1


def test_missing_shot_list_says_what_to_do(root):
    (root / "train_16shot.json").unlink()
    with pytest.raises(
        DatasetError, match=r"train_16shot\.json: no such file. Few-shot training needs .* put it there"
    ):
        PascalPart116(root).records("train_few_shot")


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', '["2008_000007.jpg"]', '[{"name": "x"}]', "3"])
def test_damaged_shot_list(root, content):
    (root / "train_16shot.json").write_text(content)
    with pytest.raises(DatasetError, match=r"train_16shot\.json: is not (a JSON list|readable JSON)"):
        PascalPart116(root).records("train_few_shot")


def test_shots_are_matched_by_split_and_base_name(root):
    names = [
        "/elsewhere/images/train/2008_000007.jpg",
        "images\\train\\2008_000009.jpg",
        "x/images/val/2008_000003.jpg",
    ]
    (root / "train_16shot.json").write_text(json.dumps([{"file_name": name} for name in names]))
    assert [r.image_id for r in PascalPart116(root).records("train_few_shot")] == ["2008_000007", "2008_000009"]
    (root / "train_16shot.json").write_text('[{"file_name": "images/val/2008_000003.jpg"}]')
    with pytest.raises(DatasetError, match="names no image of the training folder"):
        PascalPart116(root).records("train_few_shot")


def test_missing_root_and_missing_folder(root, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such folder. Pascal-Part-116 is expected there: images, "):
        PascalPart116(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"The dataset seems to be .*PascalPart116: give that folder"):
        PascalPart116(root.parent).records("train")
    (root / "annotations_detectron2_part/train").rename(root / "moved")
    with pytest.raises(DatasetError, match=r"annotations_detectron2_part/train: no such folder. Unpack"):
        PascalPart116(root).records("train")


def test_empty_folder(root):
    for path in (root / "images/val").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no image has a part label of the same base name \(0 images, 3 label"):
        PascalPart116(root).records("val")


def test_missing_object_file(root):
    (root / "annotations_detectron2_obj/val/2010_000001.png").unlink()
    with pytest.raises(DatasetError, match=r"annotations_detectron2_obj/val/2010_000001\.png: no such file, but"):
        PascalPart116(root).records("val_obj_condition")


@pytest.mark.parametrize(("kind", "value", "limit"), [("part", 116, 115), ("part", 200, 115), ("obj", 20, 19)])
def test_value_out_of_range_names_file_and_value(root, kind, value, limit):
    path = root / f"annotations_detectron2_{kind}/val/2010_000001.png"
    labels = np.full((33, 47), 255, np.uint8)
    labels[2, 3:5] = value
    save(path, labels)
    with pytest.raises(
        DatasetError, match=rf"2010_000001\.png: .*label out of range: {value} in 2 pixels; values are 0..{limit}"
    ):
        PascalPart116(root).scan("val")


def test_object_and_part_maps_of_different_size(root):
    save(root / "annotations_detectron2_part/val/2010_000001.png", np.full((20, 47), 255, np.uint8))
    with pytest.raises(
        DatasetError, match=r"_part/val/2010_000001\.png: 20×47 .* does not fit .*_obj/val.* with 33×47"
    ):
        PascalPart116(root).scan("val")


def test_unknown_split_names_the_splits(reader):
    with pytest.raises(ValueError, match=r"no split 'valid'; there are train, .*val_obj_condition"):
        reader.records("valid")

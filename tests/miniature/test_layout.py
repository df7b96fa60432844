import json

import numpy as np
import pytest
from PIL import Image

from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.miniature.layout import MiniatureError, render_miniature
from ovparts_lib.miniature.layouts.pascal_part_116 import LAYOUT
from ovparts_lib.miniature.layouts.writing import Written, few_shot_ids

SETTINGS = {"train": 14, "val": 5, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    return render_miniature(tmp_path_factory.mktemp("data") / "miniature", **SETTINGS)


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_writes_the_released_layout(miniature):
    root = miniature.root
    assert sorted(path.name for path in root.iterdir()) == [
        "annotations_detectron2_obj", "annotations_detectron2_part", "images", "miniature.json", "train_16shot.json",
    ]  # fmt: skip
    for split, count in (("train", 14), ("val", 5)):
        ids = [f"mini_{split}_{i:06d}" for i in range(count)]
        assert sorted(path.name for path in (root / "images" / split).iterdir()) == [f"{i}.jpg" for i in ids]
        for kind, top in (("obj", 20), ("part", 116)):
            folder = root / f"annotations_detectron2_{kind}" / split
            assert sorted(path.name for path in folder.iterdir()) == [f"{i}.png" for i in ids]
            for image_id in ids:
                labels = Image.open(folder / f"{image_id}.png")
                assert labels.mode == "L"
                assert labels.size == Image.open(root / "images" / split / f"{image_id}.jpg").size
                values = np.unique(np.asarray(labels))
                assert ((values < top) | (values == 255)).all()


def test_the_reader_of_the_real_data_reads_it(miniature):
    reader = PascalPart116(miniature.root)
    assert [record.image_id for record in reader.records("val")] == [f"mini_val_{i:06d}" for i in range(5)]
    assert len(reader.records("train")) == 14
    assert len(reader.records("train_few_shot")) == miniature.few_shot


def test_few_shot_list_has_the_released_form(miniature):
    entries = json.loads((miniature.root / "train_16shot.json").read_text())
    assert entries and all(set(entry) == {"file_name"} for entry in entries)
    for entry in entries:
        assert (miniature.root / entry["file_name"].removeprefix("datasets/PascalPart116/")).is_file()


def test_few_shot_draw_covers_every_object():
    shown = {f"a{i}": ["dog"] for i in range(40)} | {f"b{i}": ["cat", "boat"] for i in range(5)} | {"c": ["boat"]}
    pictures = [Written("train", name, f"{name}.jpg", "", tuple(objects), (1, 1)) for name, objects in shown.items()]
    pictures.append(Written("val", "d", "d.jpg", "", ("cat",), (1, 1)))
    chosen = few_shot_ids(LAYOUT.classes, pictures, seed=0)
    assert sum(image.startswith("a") for image in chosen) == 16
    assert sum(image.startswith("b") for image in chosen) == 5
    assert not {"c", "d"} & set(chosen)
    assert few_shot_ids(LAYOUT.classes, pictures, seed=1) != chosen


def test_files_do_not_depend_on_the_number_of_processes(miniature, tmp_path):
    render_miniature(tmp_path / "two", **SETTINGS, processes=2)
    assert contents(tmp_path / "two") == contents(miniature.root)


def test_reuses_equal_settings_and_refuses_others(miniature, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in miniature.root.rglob("*")}
    again = render_miniature(miniature.root, **SETTINGS)
    assert again.reused and again.objects == miniature.objects and again.few_shot == miniature.few_shot
    with pytest.raises(MiniatureError, match="seed 3 there, 4 wanted"):
        render_miniature(miniature.root, **{**SETTINGS, "seed": 4})
    assert {path: path.stat().st_mtime_ns for path in miniature.root.rglob("*")} == before


def test_never_touches_foreign_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MiniatureError, match="no finished miniature"):
        render_miniature(tmp_path, **SETTINGS, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwrite_replaces_another_miniature(tmp_path):
    root = tmp_path / "miniature"
    render_miniature(root, train=1, val=1, progress=False)
    render_miniature(root, train=2, val=1, progress=False, overwrite=True)
    assert len(list((root / "images" / "train").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["miniature"]


def test_a_failed_rendering_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ovparts_lib.miniature.layouts.pascal_part_116.render_scene", full_disk)
    with pytest.raises(OSError, match="No space left"):
        render_miniature(tmp_path / "miniature", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_rejects_an_empty_split(tmp_path):
    with pytest.raises(ValueError, match="val=0"):
        render_miniature(tmp_path / "miniature", train=3, val=0)


def test_captions_name_the_objects_present(miniature):
    captions = json.loads((miniature.root / "miniature.json").read_text())["captions"]
    assert len(captions) == 19
    record = {record.image_id: record for record in PascalPart116(miniature.root).records("val")}
    vocabulary = PascalPart116(miniature.root).vocabulary
    spoken = {"tvmonitor": "monitor", "pottedplant": "plant", "diningtable": "table"}
    for image_id, item in record.items():
        labels = np.asarray(Image.open(item.object_path))
        for index in np.unique(labels[labels != 255]):
            if (labels == index).sum() >= 60:
                name = vocabulary.objects[index]
                assert spoken.get(name, name) in captions[image_id]

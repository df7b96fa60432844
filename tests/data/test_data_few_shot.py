import json

import numpy as np
import pytest

from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.few_shot import draw_from, draw_shots, read_shot_list
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.registry import open_reader
from ovparts_lib.miniature.layout import render_miniature


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    return render_miniature(tmp_path_factory.mktemp("data") / "PascalPart116", train=70, val=1, seed=1, progress=False)


@pytest.fixture(scope="module")
def drawn_world(miniature):
    return PascalPart116(miniature.root)


def test_the_rule_is_the_documented_one():
    candidates = {"bird": ["c", "a", "b", "d"], "ant": ["b", "e"], "cow": ["f"]}
    rng = np.random.default_rng([5, 2])
    expected = {name: tuple(sorted(rng.permutation(sorted(ids))[:2].tolist())) for name, ids in candidates.items()}
    drawn = draw_from(candidates, 2, 5)
    assert drawn.drawn == expected and drawn.image_ids == tuple(sorted({i for ids in expected.values() for i in ids}))
    assert drawn.shortfalls == {"cow": 1}
    assert drawn.to_frame()["missing"].tolist() == [0, 0, 1]
    shuffled = {name: list(reversed(ids)) * 2 for name, ids in candidates.items()}
    assert draw_from(shuffled, 2, 5) == drawn


def test_every_class_gets_its_shots_of_images_that_show_it(drawn_world):
    vocabulary = drawn_world.vocabulary
    shown = {}
    for record in drawn_world.records("train"):
        parts = np.unique(drawn_world.label_maps(record)[1])
        shown[record.image_id] = {vocabulary.part_to_object[p] for p in parts if p != 255}
    by_object = draw_shots(drawn_world, 2, seed=4)
    assert list(by_object.drawn) == list(vocabulary.objects_with_parts)
    for name, ids in by_object.drawn.items():
        assert len(ids) == 2 and all(vocabulary.object_id(name) in shown[image_id] for image_id in ids)


def test_the_draw_does_not_depend_on_the_order_of_files(drawn_world, monkeypatch):
    first = draw_shots(drawn_world, 3, seed=9)
    assert draw_shots(drawn_world, 3, seed=10) != first
    records = PascalPart116.records
    monkeypatch.setattr(PascalPart116, "records", lambda self, split: records(self, split)[::-1])
    assert draw_shots(drawn_world, 3, seed=9) == first


def test_more_shots_than_images(drawn_world):
    drawn = draw_shots(drawn_world, 60)
    assert len(drawn.shortfalls) == 16 and all(count < 60 for count in drawn.shortfalls.values())
    parts = range(len(drawn_world.vocabulary.parts))
    with_parts = [r.image_id for r in drawn_world.records("train") if drawn_world.has_part("train", r, parts)]
    assert list(drawn.image_ids) == sorted(with_parts)


def test_a_drawn_list_replaces_the_file(drawn_world):
    drawn = draw_shots(drawn_world, 1, seed=2)
    reader = drawn_world.using_shots(drawn.image_ids)
    dataset = TrainingDataset(reader, "train_few_shot")
    assert [record.image_id for record in dataset.records] == list(drawn.image_ids)
    assert len(dataset.vocabulary.parts) == 116
    assert drawn_world.few_shot_ids() != reader.few_shot_ids()  # the first reader still uses the file


def test_the_miniatures_own_list_is_drawn_by_the_same_rule(miniature, drawn_world, tmp_path):
    """Drawn objects have parts in view nearly always; where they do, reader and renderer draw the same images."""
    shown = {image_id: set() for image_id in (record.image_id for record in drawn_world.records("train"))}
    for image_id in shown:
        for object_id in drawn_world.scan("train").objects_in(image_id, 255):
            shown[image_id].add(drawn_world.vocabulary.objects[object_id])
    candidates = {
        name: [i for i, names in shown.items() if name in names] for name in drawn_world.vocabulary.objects_with_parts
    }
    assert set(draw_from(candidates, 16, 1).image_ids) == drawn_world.few_shot_ids()


@pytest.mark.parametrize("dataset", ["partimagenet_seg", "partimagenet_ood"])
def test_partimagenet_gets_a_few_shot_split(dataset, tmp_path):
    render_miniature(tmp_path / "mini", dataset, train=24, val=4, seed=0, progress=False)
    (tmp_path / "mini/train_16shot.json").unlink()
    reader = open_reader(dataset, tmp_path / "mini")
    with pytest.raises(DatasetError, match=r"train_16shot\.json: no such file\. .* or draw one"):
        reader.records("train_few_shot")
    drawn = draw_shots(reader, 1)
    few = reader.using_shots(drawn.image_ids)
    samples = TrainingDataset(few, "train_few_shot")
    objects = {few.vocabulary.objects[few.picture(r).object_id] for r in samples.records}
    there = {few.vocabulary.objects[few.picture(r).object_id] for r in few.records("train_all")}
    assert objects == there and len(samples) == len(there) == len(drawn.image_ids)
    assert samples.vocabulary == few.vocabulary
    path = tmp_path / "train_1shot.json"
    names = [f"datasets/mini/images/train/{image_id}.JPEG" for image_id in drawn.image_ids]
    path.write_text(json.dumps([{"file_name": name} for name in names]))
    from_file = reader.using_shots(read_shot_list(path, "train", "PartImageNet"))
    assert from_file.records("train_few_shot") == few.records("train_few_shot")
    with pytest.raises(DatasetError, match="names no image of the training folder"):
        reader.using_shots(["nothing"]).records("train_few_shot")

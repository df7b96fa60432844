"""A user's own dataset: its class list, its folders, its faults."""

import json

import numpy as np
import pytest

from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.registry import open_reader, verify_dataset
from tests.data.released_layout import picture, save

SIZE = (20, 30)
PARTS = "{classes: {dog: [head, tail], bird cage: [door]}, unseen: [bird cage]}"


def labels(*values, dtype=np.uint8):
    return np.repeat(np.repeat(np.array(values, dtype)[None], SIZE[1] // len(values), axis=1), SIZE[0], axis=0)


def write(root, classes, **splits):
    root.mkdir(exist_ok=True)
    (root / "classes.yaml").write_text(classes)
    for number, (split, values) in enumerate(splits.items()):
        save(root / f"images/{split}/{split}_1.jpg", picture(SIZE, number))
        save(root / f"labels/{split}/{split}_1.png", values)
    return root


def test_a_list_of_classes(tmp_path):
    root = write(
        tmp_path / "mine", "[sky, 'altar, communion table', tree]", train=labels(0, 1, 255), val=labels(2, 1, 0)
    )
    report, reader = verify_dataset("own", root), open_reader("own", root)
    assert report.ok and any("background of these was saved as 0" in note for note in report.notes)
    assert not any("label label" in note for note in report.notes)
    assert reader.vocabulary.classes == ("sky", "altar, communion table", "tree")
    assert reader.title == "mine" and list(reader.settings) == ["train", "val"]
    assert set(TrainingDataset(reader, "train")[0]["part_map"].unique().tolist()) == {0, 1, 255}
    assert EvaluationDataset(reader, "val")[0].part_map[0, [0, 15, 29]].tolist() == [2, 1, 0]


def test_unseen_classes_are_not_trained(tmp_path):
    root = write(tmp_path / "mine", "{classes: [sky, tree, dog], unseen: [tree]}", train=labels(0, 1, 2))
    reader = open_reader("own", root)
    dataset = TrainingDataset(reader, "train")
    assert dataset.vocabulary.classes == ("sky", "dog") and list(reader.settings) == ["train"]
    assert dataset[0]["part_map"][0, [0, 15, 29]].tolist() == [0, 255, 1]


def test_16_bit_labels(tmp_path):
    names = json.dumps({"classes": [f"class {i}" for i in range(300)], "ignore_label": 65535})
    root = write(tmp_path / "mine", names, val=labels(299, 0, 65535, dtype=np.uint16))
    assert verify_dataset("own", root).ok
    assert EvaluationDataset(open_reader("own", root), "val")[0].part_map[0, 0] == 299


@pytest.mark.parametrize("with_objects", [False, True])
def test_objects_with_parts(tmp_path, with_objects):
    root = write(tmp_path / "mine", PARTS, train=labels(0, 1, 255), val=labels(0, 2, 255))
    if with_objects:
        save(root / "objects/train/train_1.png", labels(0, 0, 0))
        save(root / "objects/val/val_1.png", labels(0, 1, 255))
    report, reader = verify_dataset("own", root), open_reader("own", root)
    assert report.ok, report.problems
    assert reader.vocabulary.parts == ("dog's head", "dog's tail", "bird cage's door")
    training = TrainingDataset(reader, "train")
    assert training.vocabulary.parts == ("dog's head", "dog's tail")
    assert training[0]["object_map"][0, 29] == (0 if with_objects else 255)
    sample = EvaluationDataset(reader, "val_obj_condition")[0]
    assert sample.object_ids == (0, 1) and [int(region.mask.sum()) for region in sample.regions] == [200, 200]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("[sky, on]", "True is no name .*quote words such as 'on'"),
        ("[]", "names no class"),
        ("[sky, sky]", "appear twice: sky"),
        ("{dog: [head], cat: [tail], dog: [tail]}", "the key `dog` is given twice"),
        ("{a: &a [x], b: *a}", r"the alias \*a: write it out"),
        ("{classes: [sky], unsen: [sky]}", "unknown key 'unsen'"),
        ("{classes: [sky], unseen: [sea]}", "no class 'sea'"),
        ("{classes: [sky], ignore_label: 0}", "ignore_label is 255 .* not 0"),
        ("{dog: head}", "no name|no class list"),
        ("[sky", "is no class list"),
        ("3", "3 is no name"),
    ],
)
def test_wrong_class_lists_say_what_is_expected(tmp_path, classes, message):
    root = write(tmp_path / "mine", classes, val=labels(0, 255))
    with pytest.raises(DatasetError, match=rf"classes\.yaml: .*({message}).*It is a list of class names"):
        open_reader("own", root)
    assert not verify_dataset("own", root).ok


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        open_reader("own", tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match=r"classes\.yaml: no such file\. It is a list"):
        open_reader("own", tmp_path)


def test_label_values_of_another_list_are_a_problem(tmp_path):
    root = write(tmp_path / "mine", "[sky, tree]", val=labels(0, 7, 255))
    (problem,) = verify_dataset("own", root).problems
    assert "class label out of range: 7" in problem.what and problem.file.endswith("labels/val/val_1.png")

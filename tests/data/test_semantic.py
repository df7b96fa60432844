"""The object-level benchmarks: label files made from official archives, read, checked, and put into samples."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ovparts_lib.data.audit import class_frequencies, classes_seen_in_training
from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset, collate_training
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.prepare import prepare_dataset
from ovparts_lib.data.registry import DATASETS, open_reader, verify_dataset
from ovparts_lib.data.transforms import training_transform
from ovparts_lib.vocabularies import OBJECT_VOCABULARIES, load_vocabulary
from tests.data.released_layout import picture, save

SIZE = (24, 32)
CONTEXT_IDS = ("2008_000002", "2008_000003")  # the first of the validation list
# What raw ids a picture shows, from left to right in four bands, and the classes these are.
ARCHIVES = {
    "coco_stuff_171": ([0, 181, 11, 255], ["person", "wood", None, None]),
    "ade20k_150": ([0, 1, 150, 2], [None, "wall", "flag", "building"]),
    "ade20k_847": ([2978, 0, 312, 6000], ["wall", None, "building, edifice", None]),
    "pascal_context_59": ([2, 0, 1, 397], ["aeroplane", None, None, "table"]),
    "pascal_context_459": ([1, 0, 459, 2], ["accordion", None, "wool", "aeroplane"]),
    "pascal_voc_20": ([0, 1, 20, 255], [None, "aeroplane", "tvmonitor", None]),
}


def bands(values, dtype=np.int64):
    return np.repeat(np.repeat(np.array(values, dtype)[None], SIZE[1] // 4, axis=1), SIZE[0], axis=0)


def write_archive(root, name):
    """The official files of one benchmark, one picture for each split it has."""
    raw = bands(ARCHIVES[name][0])
    if name == "coco_stuff_171":
        for split in ("train2017", "val2017"):
            save(root / split / f"{len(split)}.jpg", picture(SIZE, len(split)))
            save(root / "stuffthingmaps" / split / f"{len(split)}.png", raw.astype(np.uint8))
            save(root / "stuffthingmaps" / split / "2.png", bands([255] * 4, np.uint8))
    elif name == "ade20k_150":
        for split in ("training", "validation"):
            save(root / "images" / split / f"ADE_{split}.jpg", picture(SIZE, len(split)))
            save(root / "annotations" / split / f"ADE_{split}.png", raw.astype(np.uint8))
    elif name == "ade20k_847":
        folder = root / "images/ADE/validation/street"
        save(folder / "ADE_val_1.jpg", picture(SIZE, 1))
        save(folder / "ADE_val_1_seg.png", np.stack([raw // 256 * 10, raw % 256, raw], axis=-1).astype(np.uint8))
        (folder / "ADE_val_1.json").write_text("{}")
    elif name == "pascal_voc_20":
        save(root / "JPEGImages/2007_000033.jpg", picture(SIZE, 1))
        save(root / "JPEGImages/2007_000032.jpg", picture(SIZE, 2))  # of the training list
        for image_id in ("2007_000032", "2007_000033"):
            save(root / f"SegmentationClassAug/{image_id}.png", raw.astype(np.uint8))
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    else:
        names = load_vocabulary("pascal_context_459").classes
        (root / "trainval").mkdir(parents=True)
        (root / "labels.txt").write_text("".join(f"{i}: {title}\n" for i, title in enumerate(names, 1)))
        for image_id in CONTEXT_IDS:
            save(root / f"JPEGImages/{image_id}.jpg", picture(SIZE, int(image_id[-1])))
            savemat(root / f"trainval/{image_id}.mat", {"LabelMap": raw.astype(np.uint16)})
    return root


@pytest.fixture
def few_ids(monkeypatch):
    """The validation list of Pascal-Context, cut to two pictures."""
    import ovparts_lib.data.prepare as module

    facts = module._facts() | {"pascal_context_val": list(CONTEXT_IDS)}
    monkeypatch.setattr(module, "_facts", lambda: facts)


@pytest.fixture
def prepared(tmp_path, few_ids):
    def prepare(name):
        root = write_archive(tmp_path / name, name)
        return root, prepare_dataset(name, root, root)

    return prepare


@pytest.mark.parametrize("name", OBJECT_VOCABULARIES)
def test_an_archive_becomes_label_files_that_are_read_and_verified(prepared, name):
    root, made = prepared(name)
    vocabulary, titles = load_vocabulary(name), ARCHIVES[name][1]
    expected = bands([vocabulary.ignore_label if t is None else vocabulary.class_id(t) for t in titles])
    assert made.ok and {vocabulary.classes[i] for i in np.flatnonzero(made.found["classes"])} == set(titles) - {None}
    assert f"{len(set(titles) - {None})} of {len(vocabulary.classes)} classes found" in str(made)
    report = verify_dataset(name, root)
    assert report.ok and len(report.fingerprint) == 16
    assert sum(counts["labelled pixels"] for counts in report.counts.values()) == sum(made.found["classes"])
    reader = open_reader(name, root)
    assert set(reader.settings) <= set(DATASETS[name].settings) and reader.title == DATASETS[name].title
    for split in reader.settings:
        for record in reader.records(split):
            (label_map,) = reader.label_maps(record)
            assert label_map.dtype == (np.uint16 if vocabulary.ignore_label > 255 else np.uint8)
            np.testing.assert_array_equal(label_map, expected)
    sample = EvaluationDataset(reader, "val")[0]
    np.testing.assert_array_equal(sample.part_map.numpy(), expected)
    assert tuple(sample.image.shape) == (3, *SIZE)
    table = class_frequencies(reader, "val").set_index("class")
    assert set(table.index[table["pixels"] > 0]) == set(titles) - {None}


def test_a_coco_picture_without_labels_is_not_written(prepared):
    root, made = prepared("coco_stuff_171")
    assert made.counts["train"]["without any class, not written"] == 1
    assert not (root / "stuffthingmaps_detectron2/train2017/2.png").exists()


def test_pictures_without_labels_are_counted_where_they_are_left_out(prepared):
    root, _ = prepared("coco_stuff_171")
    labelled = sorted((root / "stuffthingmaps_detectron2/val2017").glob("*.png"))[0]
    names = [f"{labelled.stem}_{letter}" for letter in "abc"]
    for name, label in zip(names, (255, 0, 255), strict=True):
        Image.fromarray(np.full(SIZE, label, np.uint8)).save(labelled.with_name(f"{name}.png"))
        image = next(path for path in (root / "val2017").iterdir() if path.stem == labelled.stem)
        shutil.copy(image, image.with_name(f"{name}{image.suffix}"))
    dataset = EvaluationDataset(open_reader("coco_stuff_171", root), "val")
    assert dataset.image_ids == (labelled.stem, names[1]) and dataset.skipped_records == 2
    assert [dataset.skipped_among(count) for count in (1, 2)] == [0, 2]


def test_large_ade_pictures_are_stored_at_512_with_their_labels(tmp_path):
    folder = tmp_path / "ADE/validation"
    codes = np.where(np.arange(1000) < 500, 2978, 312)[None].repeat(600, axis=0)
    save(folder / "x.jpg", picture((600, 1000), 0))
    save(folder / "x_seg.png", np.stack([codes // 256 * 10, codes % 256, codes % 7], axis=-1).astype(np.uint8))
    (folder / "x.json").write_text("{}")
    prepare_dataset("ade20k_847", tmp_path, tmp_path / "made")
    sample = EvaluationDataset(open_reader("ade20k_847", tmp_path / "made"), "val")[0]
    assert tuple(sample.image.shape[1:]) == tuple(sample.part_map.shape) == (512, 853)
    assert sample.part_map[0].tolist() == [0 if int(x * 1000 / 853) < 500 else 1 for x in range(853)]


def test_pictures_elsewhere_are_linked(tmp_path):
    source = write_archive(tmp_path / "archive", "ade20k_150")
    prepare_dataset("ade20k_150", source, tmp_path / "made")
    assert verify_dataset("ade20k_150", tmp_path / "made").ok


def test_training_samples_hold_classes_in_part_maps(prepared):
    root, _ = prepared("coco_stuff_171")
    transform = training_transform(shortest_edge=48, longest_edge=96, crop=40, pad_size=40, ignore_label=255)
    dataset = TrainingDataset(open_reader("coco_stuff_171", root), "train", transform)
    batch = collate_training([dataset[0], dataset[0]])
    assert batch["part_maps"][0].shape == (40, 40) and "object_maps" not in batch
    assert set(batch["part_maps"][0].unique().tolist()) <= {0, 170, 255}


DAMAGES = {
    "8-bit labels of ADE20K-847": (
        "ade20k_847",
        lambda path: Image.fromarray(bands([0, 1, 2, 3], np.uint8)).save(path),
        "16-bit labels are expected",
    ),
    "16-bit labels of VOC": (
        "pascal_voc_20",
        lambda path: Image.fromarray(bands([0, 1, 2, 3], np.uint16)).save(path),
        "8-bit labels are expected",
    ),
    "labels of a longer list": (
        "ade20k_150",
        lambda path: Image.fromarray(bands([0, 150, 170, 255], np.uint8)).save(path),
        "class label out of range: 150, 170",
    ),
    "labels of another size": (
        "pascal_context_59",
        lambda path: Image.fromarray(np.zeros((5, 6), np.uint8)).save(path),
        "5×6 (height × width) does not fit",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_label_files_are_one_clear_problem(prepared, damage):
    name, do, message = DAMAGES[damage]
    root, _ = prepared(name)
    path = next((root / DATASETS[name].places["val"].labels).iterdir())
    do(path)
    (problem,) = verify_dataset(name, root).problems
    assert problem.file == str(path) and message in problem.what
    with pytest.raises(DatasetError, match=path.name):
        list(EvaluationDataset(open_reader(name, root), "val"))


def test_a_background_saved_as_0_is_found(prepared):
    root, _ = prepared("pascal_voc_20")
    path = root / "annotations_detectron2/val/2007_000033.png"
    labels = np.array(Image.open(path))
    Image.fromarray(np.where(labels == 255, 0, labels)).save(path)
    (problem,) = verify_dataset("pascal_voc_20", root).problems
    assert problem.file == str(path) and "saved as 0" in problem.what


def test_what_is_missing_is_named(prepared, tmp_path):
    root, _ = prepared("pascal_voc_20")
    shutil.rmtree(root / "annotations_detectron2")
    (problem,) = verify_dataset("pascal_voc_20", root).problems
    assert "ovparts prepare pascal_voc_20 SOURCE" in problem.what_to_do
    with pytest.raises(DatasetError, match="holds no official labels"):
        prepare_dataset("coco_stuff_171", root, root)
    with pytest.raises(ValueError, match="nothing is prepared for 'partimagenet_seg'; there are ade20k_part_234, coco"):
        prepare_dataset("partimagenet_seg", root, root)


@pytest.mark.parametrize("damage", ["missing", "garbage", "no LabelMap"])
def test_wrong_mat_files_are_left_out_and_named(tmp_path, few_ids, damage):
    root = write_archive(tmp_path / "context", "pascal_context_59")
    path = root / f"trainval/{CONTEXT_IDS[1]}.mat"
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"not a mat file" * 20)
    elif damage == "no LabelMap":
        savemat(path, {"other": np.zeros(3)})
    made = prepare_dataset("pascal_context_59", root, root)
    assert [problem.file for problem in made.problems] == [str(path)] and made.counts["val"]["written"] == 1


def test_classes_that_training_has_seen():
    training = load_vocabulary("coco_stuff_171")
    table = classes_seen_in_training(training, load_vocabulary("ade20k_847")).set_index("class")
    assert table.loc["sofa, couch, lounge", "training classes"] == "couch"
    assert table.loc["wall", "training classes"].startswith("wall-brick; ")
    assert table.loc["wall", "seen"] and not table.loc["racquet", "seen"] and len(table) == 847
    voc = classes_seen_in_training(training, load_vocabulary("pascal_voc_20")).set_index("class")
    assert voc.loc["person", "seen"] and not voc.loc["aeroplane", "seen"]

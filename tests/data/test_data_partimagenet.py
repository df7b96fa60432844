import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.partimagenet_listing import (
    NO_PICTURE,
    OTHER_SYNSET,
    PART_CATEGORIES,
    SYNSETS,
)
from ovparts_lib.data.readers.partimagenet import PartImageNetOOD, PartImageNetSeg
from ovparts_lib.data.registry import DATASETS, verify_dataset
from ovparts_lib.data.transforms import training_transform
from ovparts_lib.vocabularies import load_vocabulary
from tests.data.released_layout import GOLDEN
from tests.golden.fill import image as golden_image

MAPPER = json.loads((GOLDEN / "mapper_partimagenet.json").read_text())
ARRAYS = np.load(GOLDEN / "mapper_partimagenet.npz")
SPLITS = DATASETS["partimagenet_seg"].settings
LISTING = json.loads((GOLDEN / "listing_partimagenet.json").read_text())
PREFIX = "partimagenet_obj_part_sem_seg_"
READER_OF = {"partimagenet": PartImageNetSeg, "partimagenet_ood": PartImageNetOOD}
SEG = load_vocabulary("partimagenet_seg")
SYNSET_OF = {name: synset for synset, name in SYNSETS.items()}
CATEGORY = {name: number for number, name in enumerate(PART_CATEGORIES)}
SQUARE = [[2, 2, 12, 2, 12, 8, 2, 8]]


def write_picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # PNG bytes under the released name: lossless
        Image.fromarray(pixels).save(file, "PNG")


def write_tree(root, pictures, *, flat=True, at_root=True, categories=True):
    """``pictures``: {split: {file name: ((height, width), [(category name, segmentation)])}}."""
    for split, files in pictures.items():
        images, annotations = [], []
        for number, (file, ((height, width), parts)) in enumerate(files.items(), 1):
            images.append({"id": number, "file_name": file, "height": height, "width": width})
            folder = root / "images" / split / ("" if flat else file.split("_")[0])
            write_picture(folder / file, golden_image(height, width, number + 50 * (split == "val")))
            for name, segmentation in parts:
                entry = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, "bbox": [0, 0, 5, 5]}
                annotations.append(entry | {"category_id": CATEGORY[name], "segmentation": segmentation})
        folder = root if at_root else root / "annotations" / split
        folder.mkdir(parents=True, exist_ok=True)
        named = [{"id": i, "name": name} for name, i in CATEGORY.items()] if categories else []
        content = {"images": images, "annotations": annotations, "categories": named}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return root


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


TIGER, DOG = f"{SYNSET_OF['tiger']}_7.JPEG", f"{SYNSET_OF['golden retriever']}_3.JPEG"
BUS, OX = f"{SYNSET_OF['school bus']}_9.JPEG", f"{SYNSET_OF['ox']}_2.JPEG"
EMPTY = f"{SYNSET_OF['leopard']}_1.JPEG"
HEAD = ("Quadruped Head", SQUARE)
PICTURES = {
    "train": {
        TIGER: ((20, 30), [HEAD, ("Quadruped Body", [[8, 4, 28, 4, 28, 16, 8, 16]])]),
        DOG: ((24, 18), [HEAD]),
        OX: ((20, 20), [HEAD]),
        EMPTY: ((16, 22), []),
    },
    "val": {
        BUS: ((20, 30), [("Car Body", SQUARE), ("Car Side Mirror", [[20, 2, 26, 2, 26, 8, 20, 8]])]),
        "n02129604_8.JPEG": ((22, 30), [("Quadruped Tail", SQUARE)]),
    },
}


@pytest.fixture
def seg_root(tmp_path):
    return write_tree(tmp_path / "PartImageNet", PICTURES)


@pytest.fixture(scope="module")
def golden_root(tmp_path_factory):
    """The inputs of the recorded mapper, in both splits."""
    root = tmp_path_factory.mktemp("golden") / "PartImageNet"
    for split in ("train", "val"):
        images, annotations = [], []
        for number, (name, facts) in enumerate(MAPPER["inputs"].items(), 1):
            file, size = f"{facts['synset']}_{name.replace('_', '')}.JPEG", (facts["h"], facts["w"])
            write_picture(root / "images" / split / file, golden_image(*size, facts["seed"]))
            images.append({"id": number, "file_name": file, "height": size[0], "width": size[1]})
            for entry in facts["annotations"]:
                annotations.append(entry | {"id": len(annotations) + 1, "image_id": number})
        (root / f"{split}.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


def golden_dataset(root, case):
    transform = None
    if case["is_train"]:
        transform = training_transform(
            shortest_edge=case["MIN_SIZE_TRAIN"],
            flip=1.0,
            pad_size=case["SIZE_DIVISIBILITY"],
            ignore_label=65535,
            augmentation="discarded_as_released",
        )
    dataset = TrainingDataset(PartImageNetSeg(root), case["split"].removeprefix(PREFIX), transform)
    wanted = MAPPER["inputs"][case["input"]]["synset"]
    return dataset, [i for i, record in enumerate(dataset.records) if record.image_id.startswith(wanted)]


@pytest.mark.parametrize("name", MAPPER["cases"])
def test_samples_equal_the_released_mapper(golden_root, name):
    case, out = MAPPER["cases"][name], f"out/{name}/"
    dataset, places = golden_dataset(golden_root, case)
    if "result" in case:
        assert case["result"].startswith("None") and places == []
        return
    sample = dataset[places[0]]
    np.testing.assert_array_equal(sample["image"].numpy(), ARRAYS[out + "image"])
    np.testing.assert_array_equal(sample["part_map"].numpy(), ARRAYS[out + "obj_part_sem_seg"])
    np.testing.assert_array_equal(sample["object_map"].numpy(), ARRAYS[out + "sem_seg"])
    objects, parts = np.unique(sample["object_map"]), np.unique(sample["part_map"])
    np.testing.assert_array_equal(objects[objects != 65535], ARRAYS[out + "instances_gt_classes"])
    np.testing.assert_array_equal(parts[parts != 65535], ARRAYS[out + "obj_part_gt_classes"])


@pytest.mark.parametrize("name", [name for name, case in MAPPER["cases"].items() if "result" not in case])
def test_native_maps_equal_the_mappers_originals(golden_root, name):
    case, out = MAPPER["cases"][name], f"out/{name}/"
    dataset, places = golden_dataset(golden_root, case)
    dataset.transform = None
    object_map, _ = dataset.reader.label_maps(dataset.records[places[0]])
    np.testing.assert_array_equal(object_map, ARRAYS[out + "ori_obj_sem_seg_gt"])
    np.testing.assert_array_equal(dataset[places[0]]["part_map"].numpy(), ARRAYS[out + "ori_obj_part_sem_seg_gt"])


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """The golden annotation files, and the pictures that they name."""
    monkeypatch.chdir(tmp_path)
    for path, content in LISTING["json_files"].items():
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for image in content["images"]:
            write_picture(path.parent / "images" / path.stem / image["file_name"], np.zeros((20, 30, 3), np.uint8))


@pytest.mark.parametrize("name", LISTING["records"])
def test_records_equal_the_released_listing(listed, name):
    dataset, split = name.split("_obj_part_sem_seg_")
    folder = {"partimagenet": "PartImageNet", "partimagenet_ood": "PartImageNet_OOD"}[dataset]
    reader = READER_OF[dataset](f"datasets/{folder}")
    found = []
    for record in reader.records(split):
        image = reader.picture(record).image
        shown = [image.instances[record.instance]] if record.instance is not None else image.instances
        categories = [instance.category_id for instance in shown]
        found.append((str(record.image_path), image.height, image.width, categories))
    expected = [
        (e["file_name"], e["height"], e["width"], [a["category_id"] for a in e["obj_annotations"]])
        for e in LISTING["records"][name]
    ]
    assert found == expected
    # A record on one annotation: the released listing calls the part category the record's category.
    for record, e in zip(reader.records(split), LISTING["records"][name], strict=True):
        assert (record.instance is not None) == ("category_id" in e)


def test_every_golden_split_is_covered():
    for dataset in READER_OF:
        names = {n.split("_obj_part_sem_seg_")[1] for n in LISTING["records"] if n.startswith(f"{dataset}_obj")}
        assert names == set(SPLITS) - {"train_all", "train_few_shot"}


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("at_root", [True, False])
def test_download_and_preprocessed_layouts_read_alike(tmp_path, flat, at_root):
    root = write_tree(tmp_path / "PartImageNet", PICTURES, flat=flat, at_root=at_root, categories=at_root)
    (root / "images/train/._n02129604_7.JPEG").write_bytes(b"not a picture")
    reader = PartImageNetSeg(root)
    names = {split: [r.image_path.name for r in reader.records(split)] for split in SPLITS if split != "train_few_shot"}
    assert names == {
        "train": [TIGER, EMPTY],
        "train_obj_condition": [TIGER, TIGER],
        "train_all": [TIGER, DOG, EMPTY],
        "val_obj_condition": [BUS, "n02129604_8.JPEG"],
    }
    assert reader.listing("train").skipped == {OTHER_SYNSET: 1}
    assert TrainingDataset(reader, "train").skipped == 1  # the picture without parts
    assert len(list(root.rglob("*.JPEG"))) == 7  # nothing was deleted


def test_maps_hold_the_part_of_the_pictures_object(seg_root):
    reader = PartImageNetSeg(seg_root)
    tiger = reader.records("train")[0]
    object_map, part_map = reader.label_maps(tiger)
    # The body is annotated after the head and lies over it; pixel centres decide, so the squares are exact.
    expected = np.full((20, 30), 65535)
    expected[2:8, 2:12] = SEG.part_id("tiger's head")
    expected[4:16, 8:28] = SEG.part_id("tiger's body")
    assert object_map.dtype == part_map.dtype == np.uint16
    np.testing.assert_array_equal(part_map, expected)
    np.testing.assert_array_equal(object_map, np.where(expected == 65535, 65535, SEG.object_id("tiger")))
    mirror = reader.label_maps(reader.records("val_obj_condition")[0])[1]
    inside = polygon2mask((20, 30), [(2, 20), (2, 26), (8, 26), (8, 20)])
    assert SEG.part_id("school bus's side mirror") in mirror[inside]


def test_evaluation_has_one_region_a_picture(seg_root):
    dataset = EvaluationDataset(PartImageNetSeg(seg_root))
    assert [SEG.objects[o] for i in range(len(dataset)) for o in dataset.object_ids(i)] == ["tiger", "school bus"]
    sample = dataset[1]
    region = np.zeros((20, 30), bool)
    region[sample.regions[0].box] = sample.regions[0].mask.numpy()
    np.testing.assert_array_equal(region, (sample.part_map != 65535).numpy())


def test_vocabularies_of_the_splits(seg_root):
    reader = PartImageNetSeg(seg_root)
    sizes = {split: len(reader.training_vocabulary(split).parts) for split in SPLITS}
    assert sizes == {
        "train": 92, "train_obj_condition": 147, "train_all": 147, "train_few_shot": 147, "val_obj_condition": 147,
    }  # fmt: skip


def test_a_record_on_one_annotation_is_about_its_pixels(seg_root):
    dataset = TrainingDataset(PartImageNetSeg(seg_root), "train_obj_condition")
    head, body = (set(np.unique(dataset[i]["part_map"])) - {65535} for i in range(2))
    assert body == {SEG.part_id("tiger's body")}
    assert SEG.part_id("tiger's head") in head and len(dataset) == 2


def test_scan_is_cached_until_annotations_change(seg_root, monkeypatch):
    first = PartImageNetSeg(seg_root).scan("train")
    monkeypatch.setattr(PartImageNetSeg, "label_maps", lambda *_: pytest.fail("the cache was not used"))
    np.testing.assert_array_equal(PartImageNetSeg(seg_root).scan("train").rows, first.rows)
    monkeypatch.undo()
    edit(seg_root / "train.json", lambda content: content["annotations"].pop(0))
    assert len(PartImageNetSeg(seg_root).scan("train").rows) < len(first.rows)


def test_ood_reads_without_any_selection(tmp_path):
    root = write_tree(tmp_path / "PartImageNet_OOD", PICTURES, flat=False)
    reader = PartImageNetOOD(root)
    # The leopard and the ox are among the 128 objects; unseen pictures of the training folder are listed and skipped.
    assert [r.image_path.name for r in reader.records("train")] == [TIGER, DOG, OX, EMPTY]
    dataset = TrainingDataset(reader, "train")
    assert [r.image_path.name for r in dataset.records] == [TIGER, OX] and dataset.skipped == 2
    assert (len(reader.vocabulary.parts), len(dataset.vocabulary.parts)) == (482, 410)


def test_ood_refuses_a_synset_it_does_not_know(tmp_path):
    pictures = {"train": {"n99999999_1.JPEG": ((8, 8), [])}, "val": PICTURES["val"]}
    reader = PartImageNetOOD(write_tree(tmp_path / "PartImageNet_OOD", pictures))
    with pytest.raises(DatasetError, match=r"n99999999_1\.JPEG: synset 'n99999999' is none of the 128 known"):
        reader.records("train")


def test_missing_picture_is_left_out_and_counted_or_an_error(seg_root, tmp_path, caplog):
    (seg_root / "images/train" / DOG).unlink()
    reader = PartImageNetSeg(seg_root)
    assert reader.listing("train").skipped == {OTHER_SYNSET: 1, NO_PICTURE: 1}
    assert f"1 {NO_PICTURE}" in caplog.text
    ood = shutil.copytree(seg_root, tmp_path / "PartImageNet_OOD")
    with pytest.raises(DatasetError, match=rf"train\.json: {DOG} is listed, but not in images/train"):
        PartImageNetOOD(ood).records("train")


@pytest.mark.parametrize("suffix", [".jpeg", ".jpg", ".JPG"])
def test_the_extension_of_a_picture_file_does_not_matter(seg_root, suffix):
    """Some downloads and unpackers change it; the annotations keep .JPEG."""
    path = seg_root / "images/train" / TIGER
    path.rename(path.with_suffix(suffix))
    reader = PartImageNetSeg(seg_root)
    (record,) = (record for record in reader.records("train") if record.image_id == path.stem)
    assert record.image_path == path.with_suffix(suffix)
    assert reader.listing("train").skipped == {OTHER_SYNSET: 1} and not reader.listing("train").unlisted
    assert (reader.label_maps(record)[1] != 65535).any()
    edit(seg_root / "train.json", lambda content: content["images"][0].update(file_name=path.stem + ".jpg"))
    assert len(PartImageNetSeg(seg_root).records("train")) == 2


@pytest.mark.parametrize("second", [f"n02129604/{TIGER}", f"copies/{Path(TIGER).stem}.jpg"])
def test_two_pictures_of_one_name_are_named(seg_root, second):
    folder = seg_root / "images/train"
    (folder / second).parent.mkdir()
    shutil.copy(folder / TIGER, folder / second)
    with pytest.raises(DatasetError, match=rf"{TIGER}: has the same name as .*images/train/{second}"):
        PartImageNetSeg(seg_root).records("train")
    report = verify_dataset("partimagenet_seg", seg_root)
    assert not report.ok and second in str(report.problems[0])


def test_one_picture_listed_in_two_folders_is_named(seg_root):
    other = f"copies/{TIGER}"
    edit(seg_root / "train.json", lambda content: content["images"][3].update(file_name=other))
    with pytest.raises(DatasetError, match=rf"train\.json: {other} and {TIGER} are one picture, twice"):
        PartImageNetSeg(seg_root).records("train")


def test_wrong_annotations_are_named(seg_root):
    path = seg_root / "train.json"
    original = path.read_text()

    def refused(change, message):
        path.write_text(original)
        edit(path, change)
        with pytest.raises(DatasetError, match=message):
            PartImageNetSeg(seg_root).scan("train")

    wheel = CATEGORY["Car Tier"]
    refused(
        lambda c: c["annotations"][0].update(category_id=wheel),
        rf"train\.json: annotation 1 of {TIGER} is a 'Car Tier', which no tiger has; its parts are tiger's head",
    )
    refused(lambda c: c["annotations"][0].update(category_id=40), "annotation 1 has category_id 40; ids are 0..39")
    refused(lambda c: c["annotations"][0].update(image_id=99), "annotation 1 is of image 99, which is not listed")
    refused(lambda c: c["images"][0].update(id=2), "two images have the id 2")
    refused(lambda c: c["categories"][0].update(id=1), "numbers the part category 'Quadruped Head' as 1; it is 0")
    refused(lambda c: c["annotations"][0].update(segmentation=[[50, 50, 60, 50, 60, 60]]), "outside its image")
    refused(lambda c: c.update(images=c["images"][2:3], annotations=[]), "none of its 1 images is a picture")


def test_missing_files_and_splits_are_named(seg_root):
    with pytest.raises(ValueError, match=r"PartImageNet \(Seg\) has no split 'val'; there are train"):
        PartImageNetSeg(seg_root).records("val")
    (seg_root / "val.json").unlink()
    with pytest.raises(DatasetError, match=r"val\.json: no such file, nor .*annotations/val/val\.json"):
        PartImageNetSeg(seg_root).records("val_obj_condition")
    shutil.rmtree(seg_root / "images/train")
    with pytest.raises(DatasetError, match="images/train: no such folder"):
        PartImageNetSeg(seg_root).records("train")
    with pytest.raises(DatasetError, match=r"nowhere: no such folder. PartImageNet \(Seg\) is expected there"):
        PartImageNetSeg(seg_root / "nowhere")


def test_size_of_the_annotations_is_checked_against_the_picture(seg_root):
    edit(seg_root / "train.json", lambda content: content["images"][0].update(height=21))
    dataset = TrainingDataset(PartImageNetSeg(seg_root), "train")
    with pytest.raises(DatasetError, match=r"train\.json: 21×30 .* does not fit .*n02129604_7\.JPEG with 20×30"):
        dataset[0]


def test_verification_counts_what_is_left_out(seg_root):
    (seg_root / "images/train" / "n02129604_99.JPEG").write_bytes((seg_root / "images/train" / TIGER).read_bytes())
    report = verify_dataset("partimagenet_seg", seg_root)
    assert report.ok and len(report.fingerprint) == 16
    counts = report.counts["train"]
    assert counts["images in the annotation file"] == 4 and counts[OTHER_SYNSET] == 1
    assert counts["complete samples"] == 3 and counts["samples without any part"] == 1
    assert counts["samples of unseen objects"] == 1 and counts["objects"] == 3
    assert counts["pictures without annotations"] == 1
    assert counts["part pixels of unseen classes, removed for training"] == 60  # the 6 × 10 head of the retriever
    assert any("n02129604_99.JPEG" in note for note in report.notes)
    assert verify_dataset("partimagenet_seg", seg_root) == report


def test_verification_finds_a_picture_of_both_splits_and_damage(seg_root):
    (seg_root / "images/val" / BUS).write_bytes((seg_root / "images/train" / TIGER).read_bytes())
    (seg_root / "images/train" / DOG).write_bytes(b"\xff\xd8 half a picture")
    report = verify_dataset("partimagenet_seg", seg_root)
    told = "\n".join(map(str, report.problems))
    assert f"{BUS}: is also a training picture" in told and f"{DOG}: cannot be decoded" in told
    assert len(report.problems) == 2


def test_verification_of_ood_compares_published_counts_and_objects(tmp_path):
    root = write_tree(tmp_path / "PartImageNet_OOD", PICTURES)
    report = verify_dataset("partimagenet_ood", root)
    notes = "\n".join(report.notes)
    assert "train: 4 samples; published are 16,540 (README of PartImageNet)" in notes
    assert "train: 4 objects; published are 109" in notes and "val: 2 objects; published are 19" in notes
    assert "train: holds pictures of 1 unseen objects: golden retriever" in notes
    assert "val: holds pictures of 2 seen objects: school bus, tiger" in notes


def test_a_part_of_another_super_category_is_read_by_its_name_as_released(seg_root):
    """A bottle's body on a dog is the dog's body."""
    read = []
    for category in ("Quadruped Body", "Bottle Body"):
        change = {"category_id": CATEGORY[category]}
        edit(seg_root / "train.json", lambda data, c=change: [a.update(c) for a in data["annotations"] if a["id"] == 3])
        read.append([picture.part_ids for picture in PartImageNetSeg(seg_root).listing("train").pictures])
    assert read[0] == read[1]


def test_verification_without_annotations_is_a_problem(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    report = verify_dataset("partimagenet_seg", tmp_path)
    assert not report.ok and "train.json: no such file" in str(report.problems[0])


@pytest.mark.parametrize("dataset", ["partimagenet_seg", "partimagenet_ood"])
def test_a_list_of_sizes_names_the_download_that_is_needed(seg_root, dataset):
    for split in ("train", "val"):
        data = json.loads((seg_root / f"{split}.json").read_text())
        (seg_root / f"{split}.json").write_text(json.dumps({"images": data["images"]}))
    first = verify_dataset(dataset, seg_root).problems[0]
    assert first.file == str(seg_root / "train.json") and "no list of annotations" in first.what
    assert "sizes, not their parts" in first.what_to_do and "github.com/TACJu/PartImageNet" in first.what_to_do


def test_every_error_of_an_annotation_file_is_reported_beside_those_of_pictures(seg_root):
    path = seg_root / "train.json"
    data = json.loads(path.read_text())
    wrong = data["annotations"][:2]
    for entry in wrong:
        entry["category_id"] = 77
    data["images"] = [image | {"file_name": f"a\\{image['file_name']}"} for image in data["images"]]
    path.write_text(json.dumps(data))
    picture = sorted((seg_root / "images/val").glob("*.JPEG"))[0]
    picture.write_bytes(picture.read_bytes()[:200])
    found = verify_dataset("partimagenet_seg", seg_root).problems
    assert sum("category_id 77" in problem.what for problem in found) == len(wrong) == 2
    assert any(problem.file == str(picture) and "cannot be decoded" in problem.what for problem in found)

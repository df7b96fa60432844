"""The miniature in the layouts of the other datasets: files as released, labels that say what is drawn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ovparts_lib.data import EvaluationDataset, TrainingDataset, verify_dataset
from ovparts_lib.data.coco_instances import rasterise, read_coco
from ovparts_lib.data.partimagenet_facts import SYNSETS
from ovparts_lib.data.registry import open_reader
from ovparts_lib.miniature import layout
from ovparts_lib.miniature.figure import pose_figure
from ovparts_lib.miniature.layout import LAYOUTS, MiniatureError, render_miniature, renderer_fingerprint
from ovparts_lib.miniature.layouts.counterparts import TABLES, drawn_words, rename
from ovparts_lib.miniature.layouts.writing import FORMS, outlines, run_lengths, segmentation
from ovparts_lib.miniature.scene import FIGURES
from ovparts_lib.vocabularies import load_vocabulary

SETTINGS = {"train": 30, "val": 14, "seed": 3, "progress": False}
PARTIMAGENET = ["partimagenet_seg", "partimagenet_ood"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    return {name: render_miniature(folder / name, name, **SETTINGS) for name in TABLES}


def contents(root):
    files = (path for path in root.rglob("*") if path.is_file() and ".ovparts_cache" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


@pytest.mark.parametrize("dataset", TABLES)
def test_counterparts_are_words_of_the_dataset(dataset):
    """All but the ox of the 40-object selection, which stands for the synsets that reading filters out."""
    vocabulary, words = load_vocabulary(dataset), drawn_words(dataset)
    outside = {"ox"} if dataset == "partimagenet_seg" else set()
    assert set(words.objects) - set(vocabulary.objects) == outside
    assert {part for part in words.parts if part.split("'s")[0] not in outside} <= set(vocabulary.parts)
    assert set(TABLES[dataset]) <= set(FIGURES)
    drawn = set(words.objects) - outside
    assert drawn & vocabulary.unseen_objects and drawn - vocabulary.unseen_objects


@pytest.mark.parametrize("dataset", TABLES)
def test_every_part_of_the_table_is_drawn_by_its_figure(dataset):
    for figure, entry in TABLES[dataset].items():
        poses = [pose_figure(FIGURES[figure], np.random.default_rng(seed)) for seed in range(40)]
        renamed = [rename(pose, TABLES[dataset]) for pose in poses]
        assert {piece.label for pose in renamed for piece in pose.pieces} - {None} == set(entry.parts.values())
        for pose, new in zip(poses, renamed, strict=True):  # the same shapes and colours in the same order
            assert new.name == entry.name
            assert all(a is b or replace(a, label=None) == replace(b, label=None) for a, b in
                       zip(map(_bare, pose.pieces), map(_bare, new.pieces), strict=True))  # fmt: skip


def _bare(piece):
    return replace(piece, label=None, points=tuple(map(tuple, piece.points.tolist())))


def test_ade_has_the_released_files(worlds):
    root = worlds["ade20k_part_234"].root
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) == [
        "ade20k_instance_train.json", "ade20k_instance_val.json", "annotations_detectron2_part", "images",
        "miniature.json", "train_16shot.json",
    ]  # fmt: skip
    vocabulary = load_vocabulary("ade20k_part_234")
    for name, folder, count in (("train", "training", 30), ("val", "validation", 14)):
        file = read_coco(root / f"ade20k_instance_{name}.json", 44)
        assert len(file.images) == count and not any(file.dropped.values())
        for image in file.images:
            labels = Image.open(root / "annotations_detectron2_part" / folder / image.file_name.replace("jpg", "png"))
            picture = Image.open(root / "images" / folder / image.file_name)
            part_map = np.asarray(labels)
            assert labels.mode == "I;16" and labels.size == picture.size == (image.width, image.height)
            owner = np.full(65536, -1)
            owner[: len(vocabulary.parts)] = vocabulary.part_to_object
            covered = np.zeros(part_map.shape, bool)
            for instance in image.instances:
                mask = rasterise(instance, image, file.path)
                assert not (mask & covered).any()  # what is seen of each object
                covered |= mask
                assert set(owner[part_map[mask]]) <= {instance.category_id, -1}
            assert (part_map[~covered] == 65535).all()
    entries = json.loads((root / "train_16shot.json").read_text())
    assert entries and all((root / e["file_name"].removeprefix("datasets/ADE20KPart234/")).is_file() for e in entries)


@pytest.mark.parametrize("dataset", TABLES)
def test_all_forms_of_masks_occur(worlds, dataset):
    text = next(path for path in sorted(worlds[dataset].root.rglob("*train.json"))).read_text()
    kinds = [entry["segmentation"] for entry in json.loads(text)["annotations"]]
    found = {"polygons" if isinstance(kind, list) else type(kind["counts"]).__name__ for kind in kinds}
    assert found == {"polygons", "list", "str"}


@pytest.mark.parametrize("dataset", PARTIMAGENET)
def test_partimagenet_has_the_released_files(worlds, dataset):
    root, vocabulary = worlds[dataset].root, load_vocabulary(dataset)
    seg = dataset == "partimagenet_seg"
    lines = (root / "LOC_synset_mapping.txt").read_text().splitlines()
    assert [line.split(" ", 1) for line in lines] == [list(item) for item in SYNSETS.items()]
    objects = {}
    for split in ("train", "val"):
        path = root / "annotations" / split / f"{split}.json" if seg else root / f"{split}.json"
        file = read_coco(path, 40)
        objects[split] = set()
        for image in file.images:
            synset = image.file_name.split("_")[0]
            folder = root / "images" / split / ("" if seg else synset)
            assert Image.open(folder / image.file_name).format == "JPEG"
            objects[split].add(SYNSETS[synset])
            assert len({instance.category_id for instance in image.instances}) == len(image.instances) > 0
    if seg:
        assert "ox" in objects["train"] | objects["val"]
    else:
        assert not objects["train"] & vocabulary.unseen_objects and objects["val"] <= vocabulary.unseen_objects


@pytest.mark.parametrize("dataset", PARTIMAGENET)
def test_the_readers_of_the_real_data_read_it(worlds, dataset):
    reader = open_reader(dataset, worlds[dataset].root)
    training, evaluation = TrainingDataset(reader, "train"), EvaluationDataset(reader)
    assert len(training) > 8 and training.skipped == 0
    assert len(evaluation) > 8 and evaluation.skipped_records == 0
    assert len(TrainingDataset(reader, "train_few_shot")) == worlds[dataset].few_shot
    unseen = {i for i in range(len(evaluation)) if evaluation.object_ids(i)[0] in reader.vocabulary.unseen_object_ids}
    assert unseen
    report = verify_dataset(dataset, worlds[dataset].root)
    assert report.ok, report.to_markdown()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dataset", TABLES)
def test_files_depend_on_settings_only_and_are_reused(worlds, dataset, processes, tmp_path):
    world = worlds[dataset]
    render_miniature(tmp_path / "two", dataset, **SETTINGS, processes=processes)
    assert contents(tmp_path / "two") == contents(world.root)
    again = render_miniature(world.root, dataset, **SETTINGS)
    assert again.reused and replace(again, reused=False) == world
    with pytest.raises(MiniatureError, match=f"dataset {dataset} there, pascal_part_116 wanted"):
        render_miniature(world.root, **SETTINGS)


def test_layouts_do_not_count_as_drawing_code(monkeypatch):
    """A change of a layout must not make anybody train the miniature's CLIP again."""
    read, read_bytes = set(), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.add(path) or read_bytes(path))
    renderer_fingerprint()
    names = {path.relative_to(Path(layout.__file__).parent).as_posix() for path in read}
    assert {"scene.py", "figures/beings.yaml", "canvas.py"} <= names
    assert not any("layout" in name for name in names)


def test_an_unknown_layout_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no layout 'coco'; there are {', '.join(LAYOUTS)}"):
        render_miniature(tmp_path / "world", "coco")


@pytest.mark.parametrize("number", range(len(FORMS)))
@pytest.mark.parametrize("seed", range(4))
def test_every_form_gives_the_mask_back(number, seed):
    """Blobs with several pieces, pixels that touch at corners, borders, and (odd seeds) holes."""
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 13)) < (0.75 if seed % 2 else 0.3)
    written = json.loads(json.dumps(segmentation(mask, number)))
    if isinstance(written, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(written, 9, 13))
    elif isinstance(written["counts"], list):
        assert sum(written["counts"]) == mask.size
        rle = coco_mask.frPyObjects(written, 9, 13)
    else:
        rle = {"size": written["size"], "counts": written["counts"].encode()}
    np.testing.assert_array_equal(coco_mask.decode(rle), mask)


def test_run_lengths_and_outlines_of_a_known_mask():
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = True
    assert run_lengths(mask) == [4, 1, 2, 1, 4]
    assert run_lengths(~mask)[:3] == [0, 4, 1]
    (polygon,) = outlines(mask)
    points = np.array(polygon).reshape(-1, 2)
    assert points.min(0).tolist() == [1.0, 1.0] and points.max(0).tolist() == [3.0, 2.0]

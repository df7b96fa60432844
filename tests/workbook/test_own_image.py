"""Own photographs and own words, step by step as 31_own_image takes them, with systems that were never trained."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from ovparts_lib import inspection, workbook
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.labels import read_image
from ovparts_lib.runs import RunFolder, load_parameters
from ovparts_lib.runs.execute import execute
from ovparts_lib.runs.parameters import OwnImageParameters
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.systems.system import System
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook import own_image

ROOT = Path(__file__).parents[2]
WORDS = {"unicorn": ["horn", "hoof"], "kettle": ["spout", "lid", "handle"]}
SIZES = {"street": (61, 117), "tall": (130, 47)}  # neither squares nor multiples of a patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, nothing else about them, and a checkpoint of each system with random weights."""
    folder, draw = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{name}.png")
    torch.manual_seed(0)
    for system in ("clipseg", "catseg", "zsseg_plus", "partcatseg"):
        entry = SYSTEMS[system]
        entry.save(entry.build("miniature"), folder / f"{system}.safetensors")
    return folder


def parameters(folder, outputs, system, **changes):
    values = {
        "setting": "own",
        "run": system,
        "outputs": str(outputs),
        "device": "cpu",
        "images": [str(folder / f"{name}.png") for name in SIZES],
        "words": WORDS,
        "model": str(folder / f"{system}.safetensors"),
    }
    return OwnImageParameters(**values | changes)


@pytest.mark.parametrize("system", ["catseg", "partcatseg"])
def test_photographs_and_words_are_all_that_is_needed(folder, tmp_path, system):
    params = parameters(folder, tmp_path, system)
    output = workbook.RunOutput(RunFolder.open(params))
    model, report = workbook.load_system(params, output)
    assert type(model) is SYSTEMS[system].model_class
    assert report.initialised == ()
    words = PartVocabulary.from_words(params.words)
    assert words.parts == ("unicorn's horn", "unicorn's hoof", "kettle's spout", "kettle's lid", "kettle's handle")
    views = workbook.look_at_images(model, words, params.images)
    assert {view.name: tuple(view.label_map.shape) for view in views} == SIZES
    for view in views:
        assert torch.equal(view.image, read_image(folder / f"{view.name}.png"))
        assert view.scores.image_size == SIZES[view.name]
        assert 0 <= view.label_map.min() <= view.label_map.max() <= len(words.parts)
    output.show(workbook.overlay_panels(views, words))
    workbook.save_overlays(views, words, output.run.figures)
    output.show(workbook.score_panels(views, words))
    output.show(workbook.view_panels(model, views, words))
    output.finish()

    figures = tmp_path / "own" / system / "figures"
    for name, size in SIZES.items():
        with Image.open(figures / f"overlay_{name}_full.png") as picture:
            assert picture.size[::-1] == size
        won = pd.read_csv(figures / f"overlay_{name}.csv")
        assert won["pixels"].sum() == size[0] * size[1]
        assert list(won["word"]) == [*words.parts, "none of them"]
        assert set(pd.read_csv(figures / f"cost_{name}.csv")["word"]) < set(words.parts)
    stages = {"catseg": {"cost_street"}, "partcatseg": {"cost_street", "cost_generic_street"}}[system]
    listed = {Path(one["file"]).stem for one in json.loads((figures.parent / "results.json").read_text())["figures"]}
    assert {name for name in listed if name.startswith("cost") and name.endswith("street")} == stages
    assert {f"class_attention{name.removeprefix('cost')}" for name in stages} <= listed
    if system == "partcatseg":
        shown = pd.read_csv(figures / "class_attention_generic_street.csv")
        kinds = [query.rpartition(" ")[2] for query in shown["attending"]]
        assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"(part)", "(object)"}


def test_a_system_that_is_told_objects_finds_them_and_shows_its_proposals(folder, tmp_path):
    params = parameters(folder, tmp_path, "zsseg_plus")
    output = workbook.RunOutput(RunFolder.open(params))
    model, _ = workbook.load_system(params, output)
    words = PartVocabulary.from_words(params.words)
    views = workbook.look_at_images(model, words, params.images)
    assert {view.name: tuple(view.label_map.shape) for view in views} == SIZES
    output.show(workbook.view_panels(model, views, words))
    for name in SIZES:
        proposals = pd.read_csv(output.run.figures / f"proposals_{name}.csv")
        assert len(proposals) % model.size.queries == 0
        assert set(proposals["stage1"]) <= set(words.parts)
        assert (output.run.figures / f"proposals_{name}.png").is_file()


def test_own_masks_take_the_place_of_proposals(folder, tmp_path):
    """OVSeg names a user's masks; what is in none of them is none of the words; other systems refuse them."""
    masks = {name: np.zeros((2, *size), bool) for name, size in SIZES.items()}
    for name, (height, width) in SIZES.items():
        masks[name][0, : height // 2], masks[name][1, height // 2 :, : width // 2] = True, True
        np.save(tmp_path / f"{name}.npy", masks[name])
    files = [str(tmp_path / f"{name}.npy") for name in SIZES]
    images = [str(folder / f"{name}.png") for name in SIZES]
    torch.manual_seed(0)
    model, words = SYSTEMS["ovseg"].build("miniature").eval(), PartVocabulary.from_words(WORDS)
    views = workbook.look_at_images(model, words, images, masks=files)
    for view in views:
        outside = ~masks[view.name].any(0)
        assert (view.label_map.numpy()[outside] == len(words.parts)).mean() > 0.9  # borders are interpolated
        for mask in masks[view.name]:
            inside = np.unique(view.label_map.numpy()[mask], return_counts=True)
            assert inside[1].max() > 0.9 * mask.sum()  # one word a mask
    (panel,) = workbook.view_panels(model, views[:1], words)
    assert panel.name == "proposals_street" and set(panel.table["mask"]) == {0, 1}
    assert "proposal network" not in panel.table
    with pytest.raises(DatasetError, match=r"tall.npy: mask 0: is 47 x 130 pixels, the picture 117 x 61"):
        workbook.look_at_images(model, words, images, masks=files[::-1])
    with pytest.raises(ValueError, match="1 given for 2 photographs"):
        workbook.look_at_images(model, words, images, masks=files[:1])
    with pytest.raises(ValueError, match=r"CATSeg classifies no mask proposals.* take OVSeg"):
        workbook.look_at_images(SYSTEMS["catseg"].build("miniature"), words, images, masks=files)


@pytest.mark.parametrize("system", ["clipseg", pytest.param("catseg", marks=pytest.mark.slow)])
def test_any_words_and_any_file_names(folder, tmp_path, system):
    """Slashes, markup, a phrase of 230 bytes; a photograph whose name is as long as one may be with its ending."""
    words = ["screen/monitor", "and/or", "<b>x</b>", ("handle of the old blue kettle " * 8)[:230].strip()]
    photograph = tmp_path / f"{'p' * 236}.png"
    photograph.write_bytes((folder / "street.png").read_bytes())
    params = parameters(folder, tmp_path, system, words=words, images=[str(photograph), str(folder / "tall.png")])
    output = workbook.RunOutput(RunFolder.open(params))
    model, _ = workbook.load_system(params, output)
    vocabulary = PartVocabulary.from_words(params.words)
    assert list(vocabulary.parts) == words
    views = workbook.look_at_images(model, vocabulary, params.images)
    output.show(workbook.overlay_panels(views, vocabulary))
    workbook.save_overlays(views, vocabulary, output.run.figures)
    output.show(workbook.score_panels(views, vocabulary))
    output.show(workbook.view_panels(model, views, vocabulary))
    output.finish()
    listed = json.loads((output.path / "results.json").read_text(encoding="utf-8"))["figures"]
    files = {one["file"] for one in listed}
    assert len(files) == len(listed) >= 6
    assert all((output.path / file).is_file() and len(Path(file).name.encode()) <= 255 for file in files)
    (table,) = output.run.figures.glob("overlay_ppp*.csv")
    assert list(pd.read_csv(table)["word"]) == [*words, "none of them"]


def test_what_no_tensor_tells_comes_from_the_run_file(folder, tmp_path):
    path = tmp_path / "own.yaml"
    values = parameters(folder, tmp_path, "catseg").model_dump() | {"test_shortest_edge": None, "templates": "single"}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    params = load_parameters(path)
    output = workbook.RunOutput(RunFolder.open(params))
    with pytest.raises(CheckpointError, match=r"1 misshapen: embedding.*\(32, 3, 3, 3\) in the file, \(32, 1, 3, 3\)"):
        workbook.load_system(params, output)
    model, _ = workbook.load_system(params.model_copy(update={"templates": None}), output)
    assert model.size.inputs.shortest_edge is None
    assert workbook.load_system(parameters(folder, tmp_path, "catseg"), output)[0].size.inputs.shortest_edge == 96


def test_a_checkpoint_that_lacks_something_runs_only_when_asked_for_and_warns(folder, tmp_path, monkeypatch, capsys):
    load = System.load

    def partial(*arguments, **options):
        model, report = load(*arguments, **options)
        return model, dataclasses.replace(report, initialised=("background_text",))

    monkeypatch.setattr(System, "load", partial)
    params = parameters(folder, tmp_path, "catseg")
    output = workbook.RunOutput(RunFolder.open(params))
    with pytest.raises(CheckpointError, match=r"1 tensor would stay random, background_text\. .*allow_untrained"):
        own_image.load_system(params, output)
    params = parameters(folder, tmp_path, "catseg", allow_untrained=True, run="other")
    output = workbook.RunOutput(RunFolder.open(params))
    own_image.load_system(params, output)
    printed = capsys.readouterr().out
    assert printed.startswith("Warning: ") and "would stay random, background_text" in printed
    provenance = json.loads((output.path / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["weights"]["left_at_initial_values"] == ["background_text"]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["catseg", "partcatseg"])
def test_the_notebook_runs_on_photographs_and_words(folder, tmp_path, system):
    values = yaml.safe_load((ROOT / "params" / "own_image" / f"{system}.yaml").read_text(encoding="utf-8"))
    given = parameters(folder, tmp_path, system)
    values |= {key: getattr(given, key) for key in ("outputs", "device", "images", "words", "model")}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert execute(load_parameters(path)) == 0
    run = tmp_path / "own_image" / system
    for name, size in SIZES.items():
        with Image.open(run / "figures" / f"overlay_{name}_full.png") as picture:
            assert picture.size[::-1] == size
    notebook = nbformat.read(run / "notebook.ipynb", as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source)


def test_no_two_photographs_share_a_name():
    assert own_image.unique_names(["a/x.jpg", "x_2.jpg", "b/y.jpg"]) == ["x", "x_2", "y"]
    assert own_image.unique_names(["a/x.jpg", "x_2.jpg", "b/x.jpg", "c/X.jpg"]) == ["1_x", "2_x_2", "3_x", "4_X"]
    assert own_image.unique_names(["stra\xdfe.jpg", "STRASSE.jpg"]) == ["1_stra\xdfe", "2_STRASSE"]
    assert own_image.unique_names(["\xe9.jpg", "e\u0301.png"]) == ["1_\xe9", "2_e\u0301"]  # one letter, two ways


@pytest.mark.parametrize("attended", [True, False])
def test_the_viewer_draws_what_is_chosen(monkeypatch, attended):
    def score_maps(image, scores, words, name, *, chosen, columns):
        return SimpleNamespace(figure=(name, *chosen))

    shown = []
    monkeypatch.setattr(own_image, "is_attended", lambda: attended)
    monkeypatch.setattr(own_image, "display", shown.append)
    monkeypatch.setattr(inspection, "score_maps", score_maps)
    words = PartVocabulary.from_words(["dog's head", "dog's tail"])
    views = [SimpleNamespace(name=name, image=None, scores=None) for name in ("first", "second")]
    viewer = own_image.browse(views, words)
    if not attended:
        assert viewer is None and shown == [("first", words.parts[0])]
        return
    photograph, word = viewer.children[:2]
    assert photograph.options == (("first", 0), ("second", 1)) and word.options == words.parts
    viewer.update()
    photograph.value = 1
    word.value = words.parts[1]
    assert shown[-3:] == [("first", words.parts[0]), ("second", words.parts[0]), ("second", words.parts[1])]

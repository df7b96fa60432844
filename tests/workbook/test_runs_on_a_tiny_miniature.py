"""Notebooks executed headless on a few pictures, with a CLIP that was never trained."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.registry import DATASETS, open_reader
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.miniature.layout import render_miniature
from ovparts_lib.models.clip.towers import MINIATURE, build_clip
from ovparts_lib.runs import load_parameters
from ovparts_lib.runs.execute import execute
from ovparts_lib.runs.project import cache_folder
from ovparts_lib.systems.clipseg.model import MINIATURE_QUERY, Clipseg
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import PART_VOCABULARIES, load_vocabulary
from ovparts_lib.workbook import build_model

ROOT = Path(__file__).parents[2]
SYSTEM_NOTEBOOKS = [system.notebook for system in SYSTEMS.values()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for dataset in PART_VOCABULARIES:
        render_miniature(folder / DATASETS[dataset].folder, dataset, train=24, val=5, seed=3, progress=False)
    torch.manual_seed(0)
    save_clip(build_clip(MINIATURE), MINIATURE, folder / "miniclip.safetensors")
    return folder


def short_run(world, outputs, notebook="20_clipseg", **changes):
    """Parameters of a short run on the tiny miniature, as a YAML file."""
    values = yaml.safe_load((ROOT / "params" / "miniature" / f"{notebook}.yaml").read_text(encoding="utf-8"))
    values |= {
        "outputs": str(outputs),
        "data_root": str(world / "PascalPart116"),
        "initialise_from": None,
        "clip_weights": str(world / "miniclip.safetensors"),
        "iterations": 3,
        "batch_size": 2,
        "evaluate_every": 0,
        "checkpoint_every": 1,
        "log_every": 1,
        "workers": 0,
        "evaluation_limit": 2,
        "comparison_images": 2,
        "attention_images": 1,
        "intervals": 20,
    }
    path = outputs / f"{changes.get('run', values['run'])}.yaml"
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return path


def test_clipseg_from_parameters_to_results(world, tmp_path):
    params = load_parameters(short_run(world, tmp_path))
    assert execute(params) == 0
    folder = tmp_path / "miniature" / "clipseg"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["status"] == "complete"

    # Each headline figure is the mean of the per-class table it stands for, over the classes with labels.
    table = pd.read_csv(folder / "tables" / "classes_oracle_obj.csv")
    seen = table[(table["pixels"] > 0) & table["seen"]]
    row = next(r for r in results["headline"] if (r["label"], r["mode"]) == ("after", "oracle_obj"))
    assert row["protocol"] == "recommended"
    assert row["seen"] == pytest.approx(seen["IoU"].mean())
    assert row["classes_seen"] == len(seen)

    with np.load(folder / "evaluation" / "after" / "matrices.npz") as matrices:
        counts = matrices["counts_oracle_obj"]
    assert counts.dtype == np.int64
    assert counts[:, :-1].sum() == table["pixels"].sum()

    for listed in (*results["figures"], *results["tables"]):
        assert (folder / listed["file"]).stat().st_size > 0
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["vocabulary_hash"] == row["vocabulary"]
    assert len(provenance["dataset_fingerprint"]) == 16
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source)

    # Its weights serve own words, without any annotation, from another run.
    own = yaml.safe_load((ROOT / "params" / "miniature" / "31_own_image.yaml").read_text(encoding="utf-8"))
    picture = next((world / "PascalPart116" / "images" / "val").glob("*.jpg"))
    own |= {"outputs": str(tmp_path), "images": [str(picture)], "words": ["wheel", "dog's head"], "model": str(folder)}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    assert execute(load_parameters(path)) == 0
    assert (tmp_path / "miniature" / "own_image" / "figures" / f"overlay_{picture.stem}_full.png").is_file()


def in_layout(world, dataset):
    return {"dataset": dataset, "data_root": str(world / DATASETS[dataset].folder)}


def scored(folder):
    """The protocol rows of a complete run that has scored what it trained."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["status"] == "complete"
    return [row for row in results["headline"] if row["label"] == "after"]


def test_a_cross_dataset_run_trains_on_one_vocabulary_and_is_scored_on_another(world, tmp_path):
    target = {"test_dataset": "pascal_part_116", "test_root": str(world / "PascalPart116")}
    path = short_run(
        world, tmp_path, "21_catseg", run="cross", iterations=2, **in_layout(world, "ade20k_part_234"), **target
    )
    assert execute(load_parameters(path)) == 0
    rows = scored(tmp_path / "miniature" / "cross")
    assert {row["vocabulary"] for row in rows} == {load_vocabulary("pascal_part_116").hash}
    provenance = json.loads((tmp_path / "miniature" / "cross" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["training_fingerprint"] != provenance["dataset_fingerprint"]
    table = pd.read_csv(tmp_path / "miniature" / "cross" / "tables" / "classes_oracle_obj.csv")
    assert set(table["part"]) <= set(load_vocabulary("pascal_part_116").parts)


def test_what_a_few_shot_run_draws_is_not_scored_and_is_told(world, tmp_path, capfd):
    changes = in_layout(world, "ade20k_part_234") | {"train_split": "train_few_shot", "test_split": "val_few_shot"}
    path = short_run(world, tmp_path, run="few", shots=1, iterations=1, evaluation_limit=None, **changes)
    assert execute(load_parameters(path)) == 0
    folder = tmp_path / "miniature" / "few"
    drawn = pd.read_csv(folder / "tables" / "shot_images.csv")
    tested = Evaluation.load(folder / "evaluation" / "after").image_ids
    assert any(image_id.startswith("mini_train") for image_id in tested)  # unseen objects of training images
    assert not set(drawn["image"]) & set(tested)
    short = pd.read_csv(folder / "tables" / "shots.csv").query("missing > 0")
    assert len(short) and f"{short['class'].iloc[0]} ({short['images'].iloc[0]})" in capfd.readouterr().out


def test_a_file_that_only_begins_a_system_is_not_scored_as_it(world, tmp_path):
    path = tmp_path / "clipseg.safetensors"
    SYSTEMS["clipseg"].save(Clipseg(MINIATURE_QUERY), path)
    changes = {"iterations": 0, "clip_weights": None, "checkpoint": str(path), "evaluate_before_training": False}
    params = load_parameters(short_run(world, tmp_path, "23_partclipseg", **changes))
    with pytest.raises(CheckpointError, match=r"does not hold all of PartCLIPSeg: .* would stay random"):
        build_model(params)
    model, _ = build_model(load_parameters(short_run(world, tmp_path, "20_clipseg", **changes)))
    assert type(model) is Clipseg
    assert model.text_cache.folder == cache_folder() / "texts"


def test_a_picture_of_two_datasets_is_not_trained_and_scored_on(world, tmp_path, capfd):
    source, target = world / "PartImageNet", tmp_path / "PascalPart116"
    shutil.copytree(world / "PascalPart116", target)
    shutil.rmtree(target / ".ovparts_cache", ignore_errors=True)
    trained = TrainingDataset(open_reader("partimagenet_seg", source), "train").records[0].image_path
    tested = sorted((target / "images" / "val").glob("*.jpg"))[0]
    # The same picture in both, with labels that fit it.
    picture = Image.open(trained)
    shutil.copy(trained, tested)
    for kind, value in (("obj", 7), ("part", load_vocabulary("pascal_part_116").part_id("cat's head"))):
        labels = np.full(picture.size[::-1], 255, np.uint8)
        labels[:20, :20] = value
        Image.fromarray(labels).save(target / f"annotations_detectron2_{kind}" / "val" / f"{tested.stem}.png")
    changes = in_layout(world, "partimagenet_seg") | {"test_dataset": "pascal_part_116", "test_root": str(target)}
    assert execute(load_parameters(short_run(world, tmp_path, run="shared", iterations=1, **changes))) == 1
    assert f"{tested}: is also trained on, as " in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("notebook", SYSTEM_NOTEBOOKS)
@pytest.mark.parametrize("setting", ["zero_shot", "few_shot", "cross_dataset"])
@pytest.mark.parametrize("dataset", ["pascal_part_116", "ade20k_part_234", "partimagenet_seg", "partimagenet_ood"])
def test_every_system_runs_in_every_setting_on_every_layout(world, tmp_path, notebook, setting, dataset):
    changes = in_layout(world, dataset) | {"iterations": 1, "evaluate_before_training": False, "attention_images": 0}
    if setting == "few_shot":
        split = "val_few_shot" if dataset == "ade20k_part_234" else "val_obj_condition"
        changes |= {"train_split": "train_few_shot", "shots": 1, "test_split": split}
    if setting == "cross_dataset":
        other = "ade20k_part_234" if dataset != "ade20k_part_234" else "pascal_part_116"
        changes |= {"test_dataset": other, "test_root": str(world / DATASETS[other].folder)}
    assert execute(load_parameters(short_run(world, tmp_path, notebook, run="one", **changes))) == 0
    assert scored(tmp_path / "miniature" / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook",
    ["00_start_here", "01_miniature", "10_data_pascal_part_116", "11_data_ade20k_part_234", "12_data_partimagenet",
     "30_results", "32_compare_protocols"],
)  # fmt: skip
def test_the_other_notebooks_run(world, tmp_path, notebook):
    values = yaml.safe_load((ROOT / "params" / "miniature" / f"{notebook}.yaml").read_text(encoding="utf-8"))
    values["outputs"] = str(tmp_path)
    if notebook == "01_miniature":
        values |= {
            "data_root": str(tmp_path / "w" / "PascalPart116"),
            "clip_weights": str(tmp_path / "w" / "c.safetensors"),
        }
        values |= {"train_images": 20, "val_images": 4, "layout_train_images": 20, "layout_val_images": 4}
        values |= {"clip_test_pictures": 16}
    else:
        params = load_parameters(ROOT / "params" / "miniature" / f"{notebook}.yaml")
        if hasattr(params, "data_root"):
            values["data_root"] = str(world / Path(params.data_root).name)
    if notebook in ("30_results", "32_compare_protocols"):
        for run in ("clipseg", "other"):
            assert execute(load_parameters(short_run(world, tmp_path, run=run, iterations=1))) == 0
        values |= {"scored_run": str(tmp_path / "miniature" / "clipseg")} if notebook.startswith("32") else {}
        values["intervals"] = 20
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert execute(load_parameters(path)) == 0


@pytest.mark.slow
def test_a_killed_training_run_resumes_to_the_identical_result(world, tmp_path):
    straight = short_run(world, tmp_path, run="straight", iterations=8)
    killed = short_run(world, tmp_path, run="killed", iterations=8)
    assert execute(load_parameters(straight)) == 0

    folder = tmp_path / "miniature" / "killed"
    command = [sys.executable, "-m", "ovparts_lib.cli", "run", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        kernel = _kernel_after_step(folder, process, step=3)
        os.kill(kernel, signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "SIGKILL" in output
    assert not (folder / "results.json").exists()

    assert execute(load_parameters(killed)) == 0
    resumed, whole = (load_file(tmp_path / "miniature" / run / "weights.safetensors") for run in ("killed", "straight"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    tables = [
        (tmp_path / "miniature" / run / "tables" / "classes_pred_all.csv").read_text() for run in ("killed", "straight")
    ]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_two_devices_train_beside_the_notebook(world, tmp_path):
    params = load_parameters(short_run(world, tmp_path, run="two_devices", devices=2, iterations=2, device="cpu"))
    assert execute(params) == 0
    log = (tmp_path / "miniature" / "two_devices" / "log.jsonl").read_text(encoding="utf-8")
    assert json.loads(log.splitlines()[-1])["step"] == 2


def _kernel_after_step(folder, process, step):
    """Process id of the run's kernel, once the log shows ``step``."""
    log, deadline = folder / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and f'"step": {step},' in log.read_text(encoding="utf-8"):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return next(int(c) for c in children if "ipykernel" in Path(f"/proc/{c}/cmdline").read_text())
        time.sleep(0.02)
    raise AssertionError(f"the run did not reach step {step}: {process.stdout.read()}")

"""Notebooks executed headless on a few pictures, with a CLIP that was never trained."""

import json
import os
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
from safetensors.torch import load_file

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.data.miniature.layout import render_miniature
from ovparts_lib.models.clip import MINIATURE, build_clip
from ovparts_lib.runs import load_parameters
from ovparts_lib.runs.execute import execute

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    render_miniature(folder / "PascalPart116", train=24, val=5, seed=3, progress=False)
    torch.manual_seed(0)
    save_clip(build_clip(MINIATURE), MINIATURE, folder / "miniclip.safetensors")
    return folder


def clipseg(world, outputs, **changes):
    """Parameters of a short CLIPSeg run on the tiny miniature, as a YAML file."""
    values = yaml.safe_load((ROOT / "params" / "miniature" / "20_clipseg.yaml").read_text(encoding="utf-8"))
    values |= {
        "outputs": str(outputs),
        "data_root": str(world / "PascalPart116"),
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
    }
    path = outputs / f"{changes.get('run', 'clipseg')}.yaml"
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return path


def test_clipseg_from_parameters_to_results(world, tmp_path):
    params = load_parameters(clipseg(world, tmp_path))
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


@pytest.mark.slow
def test_a_killed_training_run_resumes_to_the_identical_result(world, tmp_path):
    straight = clipseg(world, tmp_path, run="straight", iterations=8)
    killed = clipseg(world, tmp_path, run="killed", iterations=8)
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
    params = load_parameters(clipseg(world, tmp_path, run="two_devices", devices=2, iterations=2, device="cpu"))
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

"""A system is a folder: the library names none, and one outside it is trained, scored and shown like the others."""

import io
import json
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import torch
import yaml

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.evaluation.protocols import PROTOCOLS
from ovparts_lib.miniature.layout import render_miniature
from ovparts_lib.models.clip.towers import MINIATURE, build_clip
from ovparts_lib.systems.registry import SYSTEMS

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "ovparts_lib"
ELSEWHERE = Path(__file__).parent / "elsewhere"
SYSTEM_NAMES = {*SYSTEMS, "zsseg", "26_scan"} - {"scan"}  # readers scan their label files
# Published figures and rules are named after the code they come from; the first lines of `ovparts --help` are examples.
NAMED_BY_PAPER = ("evaluation/", "options.py", "cli.py")


def code_words(path):
    """Names and short texts in a file's code: comments, docstrings and sentences left out."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME or (token.type == tokenize.STRING and " " not in token.string):
            yield token.string.strip("'\"").lower()


def test_no_module_outside_systems_names_a_system():
    files = [path for path in LIBRARY.rglob("*.py") if "systems" not in path.relative_to(LIBRARY).parts[:1]]
    found = {
        f"{path.relative_to(LIBRARY)}: {word}"
        for path in files
        for word in code_words(path)
        if any(name in word for name in SYSTEM_NAMES)
        and not str(path.relative_to(LIBRARY)).startswith(NAMED_BY_PAPER)
        and word not in PROTOCOLS
    }
    assert found == set()


def ovparts(*arguments, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OVPARTS_SYSTEMS": str(ELSEWHERE)} | variables
    command = [sys.executable, "-m", "ovparts_lib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def project(tmp_path):
    """A project whose notebooks are the toy's, made of another system's, and that of own images."""
    (tmp_path / "notebooks").mkdir()
    notebook = (ROOT / "notebooks" / "20_clipseg.ipynb").read_text(encoding="utf-8")
    (tmp_path / "notebooks" / "40_toy.ipynb").write_text(notebook.replace("clipseg", "toy").replace("20_", "40_"))
    own = (ROOT / "notebooks" / "31_own_image.ipynb").read_text(encoding="utf-8")
    (tmp_path / "notebooks" / "31_own_image.ipynb").write_text(own)
    return tmp_path


def write(folder, **values):
    path = folder / f"{values['run']}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_its_options_follow_its_recipe_and_a_wrong_one_is_named(project):
    file = write(project, notebook="40_toy", setting="toy", run="toy", recipe="miniature")
    shown = ovparts("params", file, "--set", "temperature=0.1")
    assert "temperature: 0.1  (recipe: 0.07)\n    what cosines are divided by" in shown.stdout
    assert "iterations: 4\n" in shown.stdout
    wrong = ovparts("params", file, "--set", "temprature=0.1")
    assert wrong.returncode == 2 and "did you mean `temperature`?" in wrong.stderr


@pytest.mark.slow
def test_it_is_trained_scored_and_shown_and_finds_own_words(project):
    world = project / "outputs" / "miniature" / "world"
    render_miniature(world / "PascalPart116", train=12, val=4, seed=3, progress=False)
    torch.manual_seed(0)
    save_clip(build_clip(MINIATURE), MINIATURE, world / "miniclip.safetensors")
    file = write(
        project, notebook="40_toy", setting="toy", run="toy", recipe="miniature", evaluation_limit=2,
        comparison_images=2, attention_images=1, intervals=20,
    )  # fmt: skip
    done = ovparts("run", file, OVPARTS_ROOT=str(project))
    assert done.returncode == 0, done.stderr
    folder = project / "outputs" / "toy" / "toy"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {row["label"] for row in results["headline"]} == {"before", "after"}
    titles = [figure["title"] for figure in results["figures"]]
    assert any(title.startswith("Cost maps") for title in titles)
    assert yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["temperature"] == 0.07

    picture = next((world / "PascalPart116" / "images" / "val").glob("*.jpg"))
    own = write(
        project, notebook="31_own_image", setting="toy", run="own", images=[str(picture)], words=["wheel", "head"],
        model=str(folder),
    )  # fmt: skip
    done = ovparts("run", own, OVPARTS_ROOT=str(project))
    assert done.returncode == 0, done.stderr
    assert list((project / "outputs" / "toy" / "own" / "figures").glob("overlay_*"))

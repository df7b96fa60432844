import nbformat
import pytest

from ovparts_lib.runs import parameter_model
from ovparts_lib.runs.parameters import MINIATURE_ROOT, MiniatureParameters

ClipsegParameters = parameter_model("20_clipseg")

TRAINABLE = ["visual_adapter", "language", "film", "decoder"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project root of its own, with the working directory somewhere else."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "notebooks").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.setenv("OVPARTS_ROOT", str(project))
    monkeypatch.chdir(elsewhere)
    return project


@pytest.fixture
def clipseg():
    """Values of a small CLIPSeg run: what has no default, and no more."""
    return {
        "setting": "zero_shot",
        "run": "clipseg",
        "data_root": "datasets/miniature",
        "model_size": "miniature",
        "initialise_from": "checkpoints/miniature/clip.safetensors",
        "clip_weights": None,
        "trainable": TRAINABLE,
        "shortest_edge": 800,
        "longest_edge": 1333,
        "iterations": 100,
        "batch_size": 8,
        "queries_per_step": None,
        "learning_rate": 1e-4,
        "gradient_clip": 0.01,
    }


@pytest.fixture
def params(clipseg):
    return ClipsegParameters(**clipseg)


@pytest.fixture
def miniature():
    return MiniatureParameters(setting="miniature", run="world", clip_iterations=10)


CELLS = {
    "parameters": f'setting = "miniature"\nrun = "start"\ndata_root = "{MINIATURE_ROOT}"  # tells the cell what to do',
    "read": (
        "import os, subprocess, time\n"
        "from ovparts_lib.runs import RunFolder, read_parameters\n"
        "params = read_parameters('00_start_here')\n"
        "folder = RunFolder.open(params)"
    ),
    "work": (
        "before = folder.log.read_text() if folder.log.exists() else ''\n"
        "folder.log.write_text(before + '{\"step\": 1}\\n')\n"
        "print('working in', os.getcwd(), 'as', params.data_root)\n"
        "if params.data_root == 'kill' and not before:\n"
        "    child = subprocess.Popen(['sleep', '300'])\n"
        "    (folder.path / 'child').write_text(str(child.pid))\n"
        "    os.kill(os.getpid(), 9)\n"
        "if params.data_root == 'sleep':\n"
        "    (folder.path / 'kernel').write_text(str(os.getpid()))\n"
        "    time.sleep(300)"
    ),
    "finish": "folder.finish({'headline': [{'steps': len(folder.log.read_text().splitlines())}]})",
}


@pytest.fixture
def write_notebook(root):
    """Writes a small notebook into the project; a cell changed to None is left out."""

    def write(**changed):
        cells = []
        for kind, source in (CELLS | changed).items():
            if source is not None:
                tags = {"tags": ["parameters"]} if kind == "parameters" else {}
                cells.append(nbformat.v4.new_markdown_cell(f"## The {kind} cell"))
                cells.append(nbformat.v4.new_code_cell(source, metadata=tags))
        path = root / "notebooks" / "00_start_here.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write


@pytest.fixture
def notebook(write_notebook):
    return write_notebook()

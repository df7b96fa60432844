import pytest

from ovparts_lib.runs import ClipsegParameters, MiniatureParameters


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
        "iterations": 100,
    }


@pytest.fixture
def params(clipseg):
    return ClipsegParameters(**clipseg)


@pytest.fixture
def miniature():
    return MiniatureParameters(setting="miniature", run="world", clip_iterations=10)

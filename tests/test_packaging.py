"""pyproject.toml, constraints.txt and environment.yml say the same thing."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(line) for line in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in (
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_is_pinned_to_a_version_it_allows(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_conda_environment_installs_this_project_with_its_extras_under_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip_lines = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "-c constraints.txt" in pip_lines
    project = next(line for line in pip_lines if line.startswith("-e ."))
    assert set(re.search(r"\[(.*)\]", project).group(1).split(",")) == set(EXTRAS)
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert f">={python.removeprefix('python=')}" == PROJECT["requires-python"]


def test_make_and_ci_install_under_the_constraints():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_no_package_index_is_named():
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://", text), name


def test_jupyterlab_opens_where_params_outputs_and_readme_are_in_reach(monkeypatch):
    from jupyter_server.serverapp import ServerApp

    assert "`make notebooks` opens JupyterLab" in (ROOT / "README.md").read_text(encoding="utf-8")
    made = subprocess.run(["make", "--dry-run", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = [line for line in made.stdout.splitlines() if "jupyter lab" in line]
    monkeypatch.chdir(ROOT)
    server = ServerApp()
    server.parse_command_line(shlex.split(command.partition(" lab ")[2]))
    opened = Path(server.root_dir)
    assert all((opened / name).exists() for name in ("README.md", "notebooks", "outputs", "params"))
    assert Path(server.file_to_run).resolve() == ROOT / "notebooks" / "00_start_here.ipynb"

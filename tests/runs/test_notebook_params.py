from types import SimpleNamespace

import IPython
import pytest

from ovparts_lib.runs import ParameterError, read_parameters
from ovparts_lib.runs.notebook_params import assigned_parameters, literal_assignments
from ovparts_lib.runs.notebooks import NotebookError, check_notebook, declared_parameters
from ovparts_lib.runs.parameters import MINIATURE_ROOT, StartHereParameters

CELL = f'setting = "miniature"\nrun = "start"\ndata_root = "{MINIATURE_ROOT}"'
KNOWN = dict.fromkeys(["setting", "run", "seed", "iterations", "device"])
BASE = "setting = 'zero_shot'\nrun = 'a'\nseed = 0\niterations = 100"


def session(*cells):
    """Execute cells as a notebook would and read its parameters."""
    variables, history = {}, [""]
    for cell in cells:
        history.append(cell)
        if not cell.startswith("%"):
            exec(cell, variables)
    return assigned_parameters(history, variables, KNOWN)


VALUES = {"setting": "zero_shot", "run": "a", "seed": 0, "iterations": 100}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([BASE], VALUES),
        ([BASE, "# Parameters\nseed = 3"], VALUES | {"seed": 3}),
        (["%matplotlib inline", "import os", BASE, "x = 5", "runs = [1]"], VALUES),
        # papermill injects only a misspelled key
        ([BASE, "# Parameters\nitertions = 5"], VALUES | {"itertions": 5}),
        # a cell of one's own that changes a parameter, computed values included
        ([BASE, "seed: int = 2 + 2"], VALUES | {"seed": 4}),
        # the parameters cell is edited and run again
        ([BASE.replace("seed", "sede"), BASE], VALUES),
        ([BASE, BASE.replace("iterations", "itertions")], VALUES | {"itertions": 100}),
        (
            [BASE, "# Parameters\nseed = 1\nrnu = 'b'", "# Parameters\nseed = 1\nrun = 'b'"],
            VALUES | {"seed": 1, "run": "b"},
        ),
        ([BASE, "# Parameters\nitertions = 5", "del itertions"], VALUES),
        # scratch cells that share a name are no parameter cells
        ([BASE, "seed = 1; model = 2"], VALUES | {"seed": 1}),
        ([BASE, "for seed in range(3):\n    pass"], VALUES | {"seed": 2}),
        (["model = 1", "print(model)"], {}),
    ],
)
def test_what_counts_as_a_parameter(cells, expected):
    assert session(*cells) == expected


def test_literal_assignments():
    cell = "# what to run\nseed: int = 0  # a comment with = in it\nwords = {\n  'dog': ['head'],\n}\nrate = -1e-4"
    assert literal_assignments(cell) == {"seed": 0, "words": {"dog": ["head"]}, "rate": -1e-4}
    for wrong in ("import os", "a = b = 1", "a.b = 1", "seed = range(3)"):
        with pytest.raises(ValueError, match="line 1"):
            literal_assignments(wrong)


def test_outside_a_notebook_values_are_given():
    read = read_parameters("00_start_here", {"setting": "miniature", "run": "start"})
    assert read.samples == 8
    with pytest.raises(ParameterError, match="did you mean `samples`"):
        read_parameters("00_start_here", {"setting": "miniature", "run": "start", "sample": 4})
    with pytest.raises(RuntimeError, match="needs a notebook"):
        read_parameters("00_start_here")


def test_in_a_session(monkeypatch):
    variables = {"setting": "miniature", "run": "a", "sample": 4}
    shell = SimpleNamespace(user_ns=variables | {"In": ["", "setting='miniature'\nrun='a'\nsample=4"]})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    with pytest.raises(ParameterError, match=r"did you mean `samples`\?\n\(after correcting a cell.*: del sample\)"):
        read_parameters("00_start_here")
    del shell.user_ns["sample"]
    assert read_parameters("00_start_here").run == "a"


def test_a_notebook_that_agrees_with_its_model(notebook):
    check_notebook(notebook, StartHereParameters)
    assert list(declared_parameters(notebook)) == ["setting", "run", "data_root"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (
            CELL + "\nsamples = 9",
            "defaults differ from StartHereParameters: samples is 9 in the notebook, 8",
        ),
        (CELL + "\nsample = 4", r"does not fit StartHereParameters.*did you mean `samples`\?"),
        ('setting = "miniature"', "run: missing"),
        (CELL + "\nsamples = 2 + 2", "line 4: the value of samples is not written out"),
        (CELL + "\nimport os", "line 4 is no assignment"),
        ("setting = ", "invalid syntax"),
        (None, "0 cells are tagged `parameters`"),
    ],
)
def test_a_notebook_that_disagrees(write_notebook, cell, expected):
    with pytest.raises(NotebookError, match=expected):
        check_notebook(write_notebook(parameters=cell), StartHereParameters)


def test_a_file_that_is_no_notebook(root):
    path = root / "notebooks" / "00_start_here.ipynb"
    path.write_text("{}")
    with pytest.raises(NotebookError, match="cannot be read as a notebook"):
        declared_parameters(path)

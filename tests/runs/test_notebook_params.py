from types import SimpleNamespace

import IPython
import pytest

from ovparts_lib.runs import ParameterError, read_parameters
from ovparts_lib.runs.load_params import assigned_parameters

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

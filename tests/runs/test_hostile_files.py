import json
import os
import subprocess
import sys

import pytest

from ovparts_lib.runs import ParameterError, RunFolder, load_parameters, resolve_path
from ovparts_lib.runs.folder import read_json, read_params
from ovparts_lib.runs.listing import find_runs, format_table, headline_rows
from ovparts_lib.runs.load_params import validate_parameters
from ovparts_lib.runs.parameters import OwnImageParameters
from ovparts_lib.runs.project import package_parent
from ovparts_lib.runs.report import write_report

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))


def test_a_bomb_of_yaml_aliases_is_refused_at_once(root, tmp_path):
    (tmp_path / "params.yaml").write_text(BOMB)
    with pytest.raises(ParameterError, match=r"line 2: the alias \*a0: write it out"):
        load_parameters(tmp_path / "params.yaml")
    assert read_params(tmp_path) is None
    deep = tmp_path / "deep.yaml"
    deep.write_text("a: " + "[" * 20_000)
    with pytest.raises(ParameterError):
        load_parameters(deep)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("010", "010 stands for the number 8 in YAML: write that, or put it in quotes"),
        ("1:30", "1:30 stands for the number 90 in YAML"),
        ("-1:30.5", "stands for the number -90.5"),
        ("0x10", None),
        ("1_000", None),
        ("0", None),
        ("'010'", None),
        ("0.5", None),
    ],
)
def test_numbers_that_yaml_reads_as_others_are_refused(tmp_path, written, message):
    (tmp_path / "params.yaml").write_text(f"notebook: 01_miniature\nrender_seed: {written}\n")
    assert (read_params(tmp_path) is None) == (message is not None)
    if message is not None:
        with pytest.raises(ParameterError, match=f"line 2: .*{message}"):
            load_parameters(tmp_path / "params.yaml")


def test_addresses_are_not_taken_for_folders(root):
    with pytest.raises(FileNotFoundError, match=r"^https://a.org/x.pt is an address; only files on this machine"):
        resolve_path("https://a.org/x.pt")


FORGED = [
    {"headline": [{"mode": [], "label": {}, "seen": "high"}, 3, None]},
    {"headline": {"a": 1}, "figures": 5, "tables": "x"},
    {"figures": [{"file": ["a"]}, {"file": "../../secret.png"}, "x"], "tables": [{"file": 7}]},
    {"title": {"a": 1}, "note": [1], "seconds": {"deep": [{"a": []}]}},
    {"headline": [{"label": "after", "mode": "oracle_obj", "protocol": "p", "seen": 1e999}]},
]


@pytest.mark.parametrize("forged", FORGED)
def test_one_forged_result_does_not_spoil_the_report_of_the_others(root, params, tmp_path, forged):
    row = {"label": "after training", "mode": "oracle_obj", "protocol": "recommended", "seen": 41.25}
    RunFolder.open(params).finish({"headline": [row]})
    folder = RunFolder.open(params.model_copy(update={"run": "forged"}))
    results = folder.finish({})
    results.write_text(json.dumps(json.loads(results.read_text()) | forged))
    runs = find_runs(root / "outputs")
    assert len(runs) == 2
    assert "41.2" in format_table(headline_rows(runs))
    assert "41.2" in write_report(runs, tmp_path / "report.html").read_text()


def test_json_nested_without_end_says_nothing(tmp_path):
    (tmp_path / "results.json").write_text("[" * 100_000)
    assert read_json(tmp_path / "results.json") == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": "[a.jpg]"}, "its -y reads YAML"),
        ({"words": "{dog: [head]}"}, "its -y reads YAML"),
        ({"outputs": "a\0b"}, "expected text without a zero byte"),
        ({"words": [None]}, "each word text that is not empty"),
        (
            {"test_shortest_edge": 0},
            "^31_own_image: test_shortest_edge = 0: expected a whole number of at least 1, as_",
        ),
        ({"test_shortest_edge": "none"}, "expected a whole number of at least 1, as_trained, or null$"),
        ({"words": [True, False]}, "YAML reads on, off, yes, no and their like as true or false"),
        ({"model": True}, "put it in quotes if it is meant as text .YAML reads on, off"),
    ],
)
def test_what_papermill_and_yaml_make_of_values_is_explained(given, said):
    values = {"setting": "own", "run": "a", "images": ["a.jpg"], "words": ["head"], "model": "m"} | given
    with pytest.raises(ParameterError, match=said):
        validate_parameters(OwnImageParameters, values)


def test_a_missing_file_names_each_place_once(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(ParameterError) as caught:
        load_parameters("nowhere.yaml")
    assert str(caught.value).count(str(root)) == 1


def test_on_windows_it_says_where_it_runs():
    code = "import os; os.name = 'nt'; import ovparts_lib"
    environment = os.environ | {"PYTHONPATH": str(package_parent())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "ovparts runs on Linux and macOS" in done.stderr

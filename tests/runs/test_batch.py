import io

import pytest
import torch
import yaml

from ovparts_lib.runs import load_parameters
from ovparts_lib.runs.batch import _begins_from, default_jobs, left_standing, plan, run_beside
from ovparts_lib.runs.project import project_root

ROOT = project_root()


@pytest.fixture
def shipped():
    return [(load_parameters(path), path) for path in sorted((ROOT / "params" / "miniature").glob("*.yaml"))]


def test_what_needs_nothing_of_each_other_runs_beside_each_other(shipped):
    groups = [[params.notebook[:2] for params, _ in group] for group in plan(shipped[::-1])]
    assert groups[0] == ["01"]
    assert groups[1] == ["20", "21", "22", "23", "24", "25", "26", "10", "11", "12", "13"]  # short ones fill the end
    assert groups[2:] == [["30", "31", "32"], ["00"]]


def test_runs_share_cores_but_not_a_gpu(shipped, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_jobs(shipped[:3]) == 3
    assert default_jobs(shipped) == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_jobs(shipped) == 1


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("bar 1\rbar 2\rbar 3\nend", ["bar 3", "end"]),
        ("line\r\n", ["line"]),
        ("", []),
    ],
)
def test_what_a_terminal_would_overwrite_is_left_out(printed, lines):
    assert [left_standing(line) for line in io.StringIO(printed, newline="\n")] == lines


def test_runs_beside_each_other_say_whose_line_it_is_and_how_they_ended(notebook, root, tmp_path, capfd):
    files = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.yaml"
        values = {"notebook": "00_start_here", "setting": "miniature", "run": name}
        path.write_text(yaml.safe_dump(values | ({"data_root": "kill"} if name == "second" else {})), encoding="utf-8")
        files.append((load_parameters(path), path))
    assert run_beside(files, 2) == 1
    printed = capfd.readouterr().out
    assert "00_start_here │ complete after" in printed
    assert "SIGKILL" in printed
    assert (root / "outputs" / "miniature" / "first" / "results.json").is_file()
    assert not (root / "outputs" / "miniature" / "second" / "results.json").exists()


def test_a_run_that_begins_from_anothers_weights_waits_for_it(shipped):
    by_name = {params.notebook: params for params, _ in shipped}
    later, earlier = by_name["24_partcatseg"], by_name["21_catseg"]
    assert _begins_from(later, earlier)
    assert not _begins_from(earlier, later)
    assert not _begins_from(later, by_name["20_clipseg"])
    scored = later.model_copy(update={"initialise_from": None, "checkpoint": later.initialise_from})
    assert _begins_from(scored, earlier) and not _begins_from(scored, by_name["20_clipseg"])

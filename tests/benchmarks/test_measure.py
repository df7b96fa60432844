"""One measurement of each cost system in miniature: what a row holds, and that saving memory costs no accuracy."""

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECOMPUTED = '{"checkpoint_aggregator": true}'
KEYS = ("system", "size", "task", "classes", "images")
RESULTS = ROOT / "benchmarks" / "results" / "systems_cpu.csv"


@pytest.fixture
def row(monkeypatch, capsys):
    """Runs ``measure.py`` in this process and gives what it prints."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("measure")

    def measured(*arguments):
        monkeypatch.setattr(sys, "argv", ["measure.py", "--repeats", "1", *arguments])
        script.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return measured


def row_of_a_process(*arguments):
    """The same in a process of its own, as rows are recorded."""
    command = [sys.executable, str(ROOT / "benchmarks" / "measure.py"), "--repeats", "1", "--threads", "1", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def step(system):
    return "--system", system, "--size", "miniature", "--task", "train_step"


@pytest.mark.parametrize("system", ["catseg", "partcatseg"])
def test_the_loss_of_a_step_is_recorded_and_is_the_same_with_recomputation(row, system):
    plain = row(*step(system), "--batch", "1")
    recomputed = row(*step(system), "--batch", "1", "--options", RECOMPUTED)
    assert (plain["vocabulary"], plain["classes"], plain["images"]) == ("pascal_part_116_seen", 74, 1)
    assert plain["loss"] == recomputed["loss"]
    assert float(plain["loss"]) > 0
    assert recomputed["gflops"] > 1.2 * plain["gflops"]  # the forward pass of aggregator and decoder, twice
    rounded = row(*step(system), "--batch", "1", "--precision", "bf16")
    assert float(rounded["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-2)
    assert rounded["loss"] != plain["loss"]


def test_an_unknown_size_is_named_with_those_there_are(row, capsys):
    with pytest.raises(SystemExit):
        row("--system", "catseg", "--size", "huge", "--task", "evaluate")
    assert "catseg has no size 'huge'; there are released, released_dinov2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("system", ["catseg", "partcatseg"])
def test_recomputed_and_compiled_steps_in_processes_of_their_own(system):
    plain, recomputed = row_of_a_process(*step(system)), row_of_a_process(*step(system), "--options", RECOMPUTED)
    assert plain["loss"] == recomputed["loss"]
    assert recomputed["peak_mib"] - recomputed["baseline_mib"] < plain["peak_mib"] - plain["baseline_mib"]
    compiled = row_of_a_process(*step(system), "--compile")
    assert float(compiled["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-5)
    assert compiled["gflops"] is None


def test_recorded_rows_say_what_they_measured():
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (ROOT / "benchmarks" / "reference.csv").open(newline="", encoding="utf-8") as file:
        references = {tuple(one[key] for key in KEYS): one for one in csv.DictReader(file)}
    for one in rows:
        recorded = references.get(tuple(one[key] for key in KEYS), {})
        assert one["reference_origin"] == recorded.get("origin", "")
        assert one["reference_peak_mib"] == recorded.get("peak_mib", "")
        if one["reference_peak_mib"]:
            share = float(one["peak_mib"]) / float(one["reference_peak_mib"])
            assert float(one["peak_mib_share"]) == pytest.approx(share, abs=6e-4)
    extrapolated = [one for one in references.values() if "extrapolated" in one["origin"]]
    assert {one["task"] for one in extrapolated} == {"train_step"}
    assert all("for each picture trained on" in one["origin"] for one in extrapolated)

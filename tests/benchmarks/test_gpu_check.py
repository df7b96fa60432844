"""``make gpu-check`` on a CPU in miniature size: its rows and exit code, and what is done when something fails."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch

from ovparts_lib.systems.registry import SYSTEMS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Runs the script in this process: (exit code, rows)."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("gpu_check")

    def checked(*arguments):
        command = ["gpu_check.py", "--device", "cpu", "--size", "miniature", "--out", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        code = script.main()
        with (tmp_path / "gpu_check_cpu.csv").open(newline="", encoding="utf-8") as file:
            return code, list(csv.DictReader(file))

    return checked


def of(rows, name):
    return next(row for row in rows if row["name"] == name)


def test_differences_and_what_time_does_not_allow(check, capsys):
    code, rows = check("--systems", "clipseg", "--only", "scores", "step", "evaluate", "--minutes", "0")
    assert code == 0
    assert all(row["passed"] == "True" and float(row["value"]) <= float(row["limit"]) for row in rows)
    assert float(of(rows, "clipseg scores CPU fp32")["value"]) < 1e-6
    assert (
        1e-5 < float(of(rows, "clipseg scores CPU fp16")["value"]) < float(of(rows, "clipseg scores CPU bf16")["value"])
    )
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "fp16", "fp32", "fp32"]
    assert {row["device"] for row in rows} == {"cpu"}
    printed = capsys.readouterr().out
    assert "No time for 8 measurements of throughput" in printed
    assert "clipseg evaluate fp32, clipseg train_step fp32, clipseg evaluate bf16" in printed


def test_a_device_that_computes_something_else_fails_and_stops_nothing(check, monkeypatch, capsys):
    model, calls = SYSTEMS["clipseg"].model_class, []
    loss, score = model.loss, model.score

    def wrong_on_the_device(self, batch):
        calls.append(batch)
        return {name: value * (1.01 if len(calls) == 2 else 1) for name, value in loss(self, batch).items()}

    def broken(self, *arguments, **options):
        raise RuntimeError("no kernel image is available\nand more")

    monkeypatch.setattr(model, "loss", wrong_on_the_device)
    monkeypatch.setattr(model, "score", broken)
    assert score is not broken
    code, rows = check("--systems", "clipseg", "--only", "scores", "step", "--minutes", "0")
    assert code == 1
    assert of(rows, "clipseg scores")["note"] == "RuntimeError: no kernel image is available"
    assert float(of(rows, "clipseg training step loss")["value"]) == pytest.approx(0.01, rel=1e-3)
    assert {row["passed"] for row in rows if "loss" in row["name"] or "scores" in row["name"]} == {"False"}
    assert "Failed: clipseg scores, clipseg training step loss" in capsys.readouterr().out


def test_rows_of_a_cpu_are_kept_apart_from_those_of_gpus(check, monkeypatch, capsys):
    script = importlib.import_module("gpu_check")
    for arguments, message in ((["--device", "cpu"], "name a folder with --out"), ([], "torch finds no CUDA device")):
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SystemExit):
            script.main()
        assert message in capsys.readouterr().err


def test_the_arithmetic_is_as_it_was_afterwards(check):
    precisions = importlib.import_module("precisions")
    cpu = torch.device("cpu")
    owners, name, values = precisions._TF32
    before = [getattr(owner, name) for owner in owners]
    for precision, expected in (("fp32", values[0]), ("tf32", values[1]), ("bf16", values[0])):
        with precisions.arithmetic(precision, cpu):
            assert [getattr(owner, name) for owner in owners] == [expected] * 2
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
    assert [getattr(owner, name) for owner in owners] == before


def test_throughput_is_related_to_the_peak_and_to_the_reference(check, monkeypatch, tmp_path):
    script = importlib.import_module("gpu_check")

    def measured(row, files, wanted):
        found = {"classes": 116, "images": row["batch"], "gflops": 30.0, "peak_mib": 900.0, "cpu_seconds": 2.0}
        return found | {"loss": "", "images_per_second": 4.0, "seconds_median": 0.5}

    monkeypatch.setattr(script, "measured", measured)
    monkeypatch.setattr(script, "peak_gflops", lambda precision, device: 600.0)
    code, rows = check("--systems", "clipseg", "--only", "evaluate fp32", "--minutes", "1000")
    assert code == 0
    assert float(of(rows, "clipseg evaluate fp32 images per second")["value"]) == 4
    assert float(of(rows, "clipseg evaluate fp32 compiled share of peak")["value"]) == 0.1
    with (tmp_path / "systems_cpu.csv").open(newline="", encoding="utf-8") as file:
        written = [(row["system"], row["size"], row["task"], row["compile"]) for row in csv.DictReader(file)]
    assert written == [("clipseg", "miniature", "evaluate", compiled) for compiled in ("False", "True")]


@pytest.mark.slow
def test_everything_in_miniature(check):
    code, rows = check("--minutes", "0")
    assert code == 0
    names = {row["name"] for row in rows}
    assert {f"{system} training step gradients" for system in SYSTEMS} <= names
    assert {"kill and resume weights", "several devices weights of 2 devices", "notebook exit code"} <= names


@pytest.mark.slow
def test_throughput_in_miniature(check):
    code, rows = check("--systems", "clipseg", "--only", "evaluate fp32", "--minutes", "1000")
    assert code == 0
    for kind in ("fp32", "fp32 compiled"):
        assert float(of(rows, f"clipseg evaluate {kind} images per second")["value"]) > 0
        assert 0 < float(of(rows, f"clipseg evaluate {kind} share of peak")["value"]) < 1

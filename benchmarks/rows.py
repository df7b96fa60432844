"""What the benchmarks share: measuring in a process of its own, what a row says of machine and code, appending it."""

from __future__ import annotations

import csv
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from ovparts_lib.runs.provenance import cpu_model, git_state

HERE = Path(__file__).parent


class MeasurementError(RuntimeError):
    """A measurement's process ended with an error."""


def about(device: str, libraries: Sequence[str] = ()) -> dict[str, str]:
    """Date, commit (``+`` for changes on top of it), hardware, and versions of Python, torch and ``libraries``."""
    commit = (git_state(HERE.parent) or {"commit": ""})["commit"]
    # Earlier rows, appended since the commit, do not change what is measured.
    changed = ["git", "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results"]
    dirty = commit and subprocess.run(changed, cwd=HERE.parent, check=False).returncode
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit[:12] + ("+" if dirty else ""),
        "hardware": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_model(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name.replace("-", "_"): version(name) for name in libraries},
    }


def results_file(kind: str, device: str) -> Path:
    """``results/<kind>_cpu.csv`` or ``results/<kind>_cuda.csv``."""
    return HERE / "results" / f"{kind}_{'cuda' if device.startswith('cuda') else 'cpu'}.csv"


def in_own_process(script: Path, arguments: Sequence[str], device: str) -> dict:
    """Run a script that prints one JSON object last, so that peak memory is its own.

    On a CPU it may have the memory that is free now and no more: it fails, instead of the machine.

    Raises:
        MeasurementError: it ended with an error; the message is its last line.
    """
    limit = _limited(psutil.virtual_memory().available) if device == "cpu" and sys.platform == "linux" else None
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, preexec_fn=limit)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"{' '.join(command)} failed with exit status {done.returncode}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _limited(size: int) -> Callable[[], None]:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def append(path: Path, row: dict) -> None:
    """Append a row, with the header if the file is new.

    Raises:
        ValueError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
        if columns != list(row):
            different = sorted(set(columns) ^ set(row)) or "their order"
            raise ValueError(f"{path} has other columns than the new row ({different}): move the file away")
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)

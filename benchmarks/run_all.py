"""Measure every system beside its peer and append the rows to ``benchmarks/results/*.csv``."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from clipseg_peer import PeerClipseg

from ovparts_lib.runs.provenance import cpu_model, git_state

HERE = Path(__file__).parent
IMPLEMENTATIONS = ("ovparts", "transformers_77", "transformers_longest")


def write_weights(path: Path) -> None:
    """Random weights under the released key names: each tensor N(0, 1/fan-in), norms and biases near 1 and 0."""
    torch.manual_seed(0)
    state = PeerClipseg(full_context=True).state_dict()
    for name, tensor in state.items():
        if not tensor.is_floating_point() or name.endswith("logit_scale"):
            continue
        if tensor.ndim <= 1:
            centre = 1.0 if name.endswith("weight") else 0.0
            state[name] = centre + 0.1 * torch.randn_like(tensor)
        else:
            state[name] = torch.randn_like(tensor) / tensor[0].numel() ** 0.5
    torch.save({"model": state}, path)


def measure(weights: Path, keep: Path, task: str, implementation: str, options: argparse.Namespace) -> dict:
    """One child process; its JSON line."""
    command = [sys.executable, str(HERE / "measure.py"), "--weights", str(weights), "--task", task]
    command += ["--implementation", implementation, "--device", options.device, "--precision", options.precision]
    command += ["--repeats", str(options.repeats), "--threads", str(options.threads), "--keep", str(keep)]
    command += ["--compile"] if options.compile else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def difference(task: str, ours: Path, theirs: Path) -> float:
    """Largest absolute difference of logits, or relative difference of losses."""
    a, b = (torch.load(path, weights_only=True) for path in (ours, theirs))
    gap = (a - b).abs().max()
    return float(gap if task == "evaluate" else gap / b.abs().max())


def main() -> None:
    """Run all combinations in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=["evaluate", "train_step"], default=["evaluate", "train_step"])
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    options = parser.parse_args()

    cuda = options.device.startswith("cuda")
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": (git_state(HERE.parent) or {}).get("commit", "")[:12],
        "hardware": torch.cuda.get_device_name(options.device) if cuda else cpu_model(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "precision": options.precision,
        "compile": options.compile,
        "system": "clipseg",
    }
    results = HERE / "results" / f"systems_{'cuda' if cuda else 'cpu'}.csv"
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        write_weights(weights)
        for task in options.tasks:
            for implementation in options.implementations:
                keep = Path(folder) / f"{task}_{implementation}.pt"
                row = about | {"task": task, "implementation": implementation}
                row |= measure(weights, keep, task, implementation, options)
                ours = Path(folder) / f"{task}_ovparts.pt"
                row["difference"] = f"{difference(task, ours, keep):.2g}" if ours.exists() else ""
                append(results, row)
                print(json.dumps(row))


def append(path: Path, row: dict) -> None:
    """Append a row, with the header if the file is new."""
    path.parent.mkdir(exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()

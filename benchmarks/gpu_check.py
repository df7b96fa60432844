"""Check in minutes that everything works on a machine's GPU, and how fast: ``make gpu-check``.

Each check is a row of ``results/gpu_check_cuda.csv``; throughput also becomes rows of ``results/systems_cuda.csv``.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from device_checks import (
    kill_and_resume,
    miniature_scores,
    notebook,
    recorded_scores,
    several_devices,
    training_step,
)
from precisions import peak_gflops
from rows import about, append, results_file
from run_all import BATCH, measured, with_reference

from ovparts_lib.systems.registry import SYSTEMS

Found = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: as in the rows.
        work: gives ``{what: (value, limit)}``.
        seconds: it is dropped where less time is left, or 0.
    """

    name: str
    work: Callable[[], Found]
    seconds: float = 0.0


class Throughput:
    """Images per second, peak memory and share of the card's peak, by system, task, precision and compiler."""

    def __init__(self, size: str, device: torch.device, out: Path, machine: dict[str, str]) -> None:
        self.size, self.device, self.out, self.machine = size, device, out, machine
        self.gflops: dict[tuple[str, str], float] = {}
        self.peaks: dict[str, float] = {}

    def measure(self, system: str, task: str, precision: str, compiled: bool) -> Found:
        """One row of ``systems_*.csv``, and of it what a check says."""
        row = {"system": system, "size": self.size, "task": task, "implementation": "ovparts", "options": "{}"}
        row |= {"precision": precision, "compile": compiled}
        wanted = argparse.Namespace(device=self.device.type, repeats=3, threads=0)
        with tempfile.TemporaryDirectory() as folder:
            settings = {"vocabulary": "pascal_part_116", "batch": BATCH}
            found = measured(row | settings, {"keep": Path(folder) / "outcome.pt"}, wanted)
        written = with_reference(self.machine | {"transformers": ""} | row | found)
        append(self.out, written | {"difference": "", "note": "gpu_check.py"})
        gflops = found["gflops"] or self.gflops.get((system, task), math.nan)  # a compiled step counts none
        self.gflops[system, task] = gflops
        if precision not in self.peaks:
            self.peaks[precision] = peak_gflops(precision, self.device)
        return {
            "images per second": (found["images_per_second"], math.inf),
            "peak MiB": (found["peak_mib"], math.inf),
            "share of peak": (gflops / found["seconds_median"] / self.peaks[precision], math.inf),
        }


def checks(names: list[str], arguments: argparse.Namespace, folder: Path, throughput: Throughput) -> Iterator[Check]:
    """All checks, those that time may drop last."""
    device = throughput.device
    if arguments.size == "released":
        yield from (Check(f"{name} recorded", partial(recorded_scores, name, device)) for name in names)
    yield from (Check(f"{name} scores", partial(miniature_scores, name, device)) for name in names)
    yield from (Check(f"{name} training step", partial(training_step, name, device)) for name in names)
    yield Check("kill and resume", partial(kill_and_resume, folder / "resume", device))
    yield Check("several devices", partial(several_devices, folder / "devices", device))
    yield Check("notebook", partial(notebook, folder / "notebook", device))
    for compiled, precision, task in product((False, True), ("fp32", "bf16"), ("evaluate", "train_step")):
        for name in names:
            kind = f"{name} {task} {precision}{' compiled' if compiled else ''}"
            work = partial(throughput.measure, name, task, precision, compiled)
            yield Check(kind, work, 90.0 if compiled else 30.0)


def run(check: Check, device: str) -> list[dict]:
    """The rows of a check; one that raises is a row that failed and says why."""
    begin = time.perf_counter()
    try:
        found, note = check.work(), ""
    except Exception as error:
        found, note = {"": (math.nan, math.nan)}, f"{type(error).__name__}: {error}".splitlines()[0][:300]
    seconds = round(time.perf_counter() - begin, 1)
    rows = []
    for what, (value, limit) in found.items():
        precision = next((word for word in f"{check.name} {what}".split() if word in ("tf32", "bf16", "fp16")), "fp32")
        row = {"name": f"{check.name} {what}".strip(), "device": device, "precision": precision}
        row |= {"value": f"{value:.4g}", "limit": "" if math.isinf(limit) else limit}
        rows.append(row | {"passed": value <= limit and math.isfinite(value), "seconds": seconds, "note": note})
    return rows


def main() -> int:
    """Check, append the rows, and say what failed and what was dropped; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["released", "miniature"], default="released", help="of what is measured")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="all by default")
    parser.add_argument("--only", nargs="+", default=[""], help="checks whose names contain one of these")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which throughput is measured no more")
    parser.add_argument("--out", type=Path, help="folder for the rows; by default results")
    arguments = parser.parse_args()
    begin, device = time.perf_counter(), torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --size miniature --out FOLDER tries the script itself")
    if arguments.out is None and (device.type, arguments.size) != ("cuda", "released"):
        parser.error("rows that are not of a GPU at released size belong elsewhere; name a folder with --out")
    machine = about(arguments.device)
    files = [results_file(kind, arguments.device) for kind in ("gpu_check", "systems")]
    out, throughput_out = [arguments.out / file.name if arguments.out else file for file in files]
    rows, dropped = [], []
    with tempfile.TemporaryDirectory() as folder:
        throughput = Throughput(arguments.size, device, throughput_out, machine)
        for check in checks(arguments.systems or list(SYSTEMS), arguments, Path(folder), throughput):
            if not any(words in check.name for words in arguments.only):
                continue
            if check.seconds and time.perf_counter() - begin + check.seconds > 60 * arguments.minutes:
                dropped.append(check.name)
                continue
            for row in run(check, arguments.device):
                append(out, machine | row)
                rows.append(row)
                limit = "" if row["limit"] == "" else f" (limit {row['limit']})"
                verdict = "passed" if row["passed"] else "FAILED"
                print(f"{verdict}  {row['name']}: {row['value']}{limit} {row['note']}".rstrip(), flush=True)
    failed = [row["name"] for row in rows if not row["passed"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} passed in {time.perf_counter() - begin:.0f} s; rows in {out}")
    if dropped:
        print(f"No time for {len(dropped)} measurements of throughput (--minutes gives more): {', '.join(dropped)}")
    if failed:
        print(f"Failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

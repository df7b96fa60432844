"""Several runs one after the other, and trainings beside each other where there are cores for it."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import groupby
from pathlib import Path
from threading import Lock

from ovparts_lib.processes import stoppable
from ovparts_lib.runs.parameters import DataParameters, MiniatureParameters, RunParameters, StartHereParameters
from ovparts_lib.runs.project import resolve_path
from ovparts_lib.systems.options import SystemOptions

# `ovparts run` that stops in order, with a checkpoint, when the process that started it is gone.
_RUN = (
    "import signal, sys; from ovparts_lib.processes import end_with_parent; end_with_parent(signal.SIGTERM); "
    "from ovparts_lib.cli import main; sys.exit(main())"
)
# A run and the file its parameters come from.
Planned = tuple[RunParameters, Path]


def plan(runs: Sequence[Planned]) -> list[list[Planned]]:
    """Runs in groups, one group after the other, whose runs can stand beside each other.

    The miniature is drawn first. Then systems are trained; datasets are looked at wherever a core is free at last. The
    other notebooks show what there is by then, and 00_start_here, which lists all runs, comes last. Otherwise runs keep
    the order of their notebooks.

    Args:
        runs: parameters, each with its file.
    """

    def place(params: RunParameters) -> tuple[int, int, str]:
        kinds = (MiniatureParameters, SystemOptions | DataParameters, RunParameters)
        at = next(number for number, kind in enumerate(kinds) if isinstance(params, kind))
        at += isinstance(params, StartHereParameters)
        return at, isinstance(params, DataParameters), params.notebook

    ordered = sorted(runs, key=lambda run: place(run[0]))
    return [list(group) for _, group in groupby(ordered, key=lambda run: place(run[0])[0])]


def run_beside(runs: Sequence[Planned], jobs: int, *, again: bool = False) -> int:
    """Execute runs as processes of their own, ``jobs`` at a time, each with its share of the cores.

    On small models two processes of one thread each do far more than one of two threads. What a run prints is passed on
    line by line, behind the name of its notebook.

    Args:
        runs: what to execute. One that begins from the weights of another must come later, and waits for it.
        jobs: processes at a time.
        again: start over instead of resuming.

    Returns:
        0 if all are complete, otherwise the exit code of the first that is not; the others are finished all the same.

    Raises:
        KeyboardInterrupt: a signal came; it was passed on, and all runs have stopped.
    """
    threads = str(max(1, (os.cpu_count() or 1) // min(jobs, len(runs))))
    variables = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    width, printing = max(len(params.notebook) for params, _ in runs), Lock()

    def execute(planned: Planned, needed: Sequence[Future[int]]) -> int:
        wait(needed)
        params, file = planned
        command = [sys.executable, "-c", _RUN, "run", str(file), *(["--again"] if again else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables) as process:
            processes.append(process)
            for line in io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace", newline="\n"):
                with printing:
                    print(f"{params.notebook:{width}} │ {left_standing(line)}", flush=True)
        return process.returncode

    processes: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(jobs) as pool, stoppable():
        started: list[Future[int]] = []
        for planned in runs:
            needed = [one for (params, _), one in zip(runs, started, strict=False) if _begins_from(planned[0], params)]
            # Runs start in this order, so that whoever waits here waits for a run that is under way.
            started.append(pool.submit(execute, planned, needed))
        try:
            return next((code for code in [one.result() for one in started] if code), 0)
        except BaseException:  # a signal, or nobody reads what we print
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            raise


def default_jobs(runs: Sequence[Planned]) -> int:
    """How many runs fit beside each other: one per core, but only one where they would share a CUDA device."""
    import torch  # takes seconds, which other commands need not wait for

    devices = {params.device for params, _ in runs}
    if any(device.startswith("cuda") for device in devices) or ("auto" in devices and torch.cuda.is_available()):
        return 1
    return max(1, min(len(runs), os.cpu_count() or 1))


def _begins_from(params: RunParameters, other: RunParameters) -> bool:
    """Whether a run begins from weights in the folder of another, or scores them."""
    sources = [getattr(params, key, None) for key in ("initialise_from", "checkpoint")]
    paths = [resolve_path(source) for source in sources if source is not None]
    return any(other.folder in (path, *path.parents) for path in paths)


def left_standing(line: str) -> str:
    """What a terminal still shows of a line at its end: a carriage return (of a progress bar) overwrites."""
    return line.rstrip("\r\n").rpartition("\r")[2]

"""Open-vocabulary part segmentation: run notebooks as reproducible, resumable runs.

Examples:
  ovparts demo                                            everything on the miniature, no data needed
  ovparts run params/miniature/20_clipseg.yaml
  ovparts run params/zero_shot/clipseg_pascal_part_116.yaml --set learning_rate=5e-5 --set run=clipseg_slow
  ovparts params params/zero_shot/clipseg_pascal_part_116.yaml    every value, explained
  ovparts verify datasets/PascalPart116                   check a data set before a long run
  ovparts prepare ade20k_part_234 ADE20K_2021_17_01 datasets/ADE20KPart234
  ovparts submit params/zero_shot/clipseg_pascal_part_116.yaml --partition gpu --hours 12
  ovparts runs                                            what is there, what is complete
  ovparts report                                          one HTML page with all results

exit codes:
  0    complete                       3    another process works in the run folder
  1    the run or the check failed    130  stopped by Ctrl-C
  2    wrong usage or parameters      143  stopped by SIGTERM

`ovparts COMMAND --help` tells more about each command.
"""

import argparse
import errno
import inspect
import math
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ovparts_lib
from ovparts_lib.data.registry import DATASETS, PREPARED
from ovparts_lib.processes import silence, write

# This text is what `ovparts --help` shows, and the text of a command's function what `ovparts COMMAND --help` shows.
# Everything else is imported when it is needed: `ovparts --help` answers at once.

COMPLETE, FAILED, WRONG_USE, LOCKED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. One clear line goes to stderr when something is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except KeyboardInterrupt as stop:
        from ovparts_lib.processes import Terminated

        write("\novparts: stopped\n", sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except BrokenPipeError:  # `ovparts runs | head` has given what was asked for; a run has not
        silence(sys.stdout)
        if options.action in (_runs, _report):
            return COMPLETE
        write("ovparts: stopped, for what reads its output has gone\n", sys.stderr)
        return FAILED
    except Exception as error:
        if options.traceback:
            write(traceback.format_exc(), sys.stderr)
        else:
            write(f"ovparts: {_one_line(error)}\n", sys.stderr)
        return _exit_code(error)


def _run(options: argparse.Namespace) -> int:
    """Execute a notebook as a run.

    A run that was stopped or killed is resumed by the same command; a complete one is left as it is.

    Examples:
      ovparts run params/miniature/20_clipseg.yaml
      ovparts run params/miniature/20_clipseg.yaml --set iterations=500 --set run=longer
      ovparts run params/miniature/20_clipseg.yaml --again
    """
    from ovparts_lib.runs import load_parameters
    from ovparts_lib.runs.execute import execute

    params = load_parameters(options.params, options.set)
    return execute(params, again=options.again, command=_repeatable(options.params, options.set))


def _params(options: argparse.Namespace) -> int:
    """Show every parameter of a run, explained, and what differs from its recipe."""
    from ovparts_lib.runs import load_parameters

    for row in load_parameters(options.params, options.set).explained():
        mark = "" if row["value"] == row["recipe"] else f"  (recipe: {row['recipe']})"
        print(f"{row['parameter']}: {row['value']}{mark}\n    {row['explanation']}")
    return COMPLETE


def _demo(options: argparse.Namespace) -> int:
    """Run the whole workbook on the miniature and show the results."""
    from ovparts_lib.runs import load_parameters, project_root
    from ovparts_lib.runs.batch import default_jobs, plan, run_beside
    from ovparts_lib.runs.execute import execute, format_duration
    from ovparts_lib.runs.project import display_path

    files = options.params or sorted((project_root() / "params" / "miniature").glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"no parameter files in {project_root() / 'params' / 'miniature'}")
    runs = [(load_parameters(file), Path(file)) for file in files]
    print(f"Notebooks to run on the miniature, a small drawn world: {len(runs)}. What has been trained is reused.")
    begun, number = time.monotonic(), 0
    for group in plan(runs):
        for params, file in group:
            number += 1
            print(f"\n── {number} of {len(runs)}: {params.notebook} ({display_path(file)})", flush=True)
        jobs = min(options.jobs or default_jobs(group), len(group))
        if jobs > 1:
            print(f"   {jobs} of them at a time", flush=True)
            code = run_beside(group, jobs, again=options.again)
        else:
            codes = (execute(one, again=options.again, command=_repeatable(file, [])) for one, file in group)
            code = next((code for code in codes if code != COMPLETE), COMPLETE)
        if code != COMPLETE:
            return code
    print(f"\nThe demo is complete after {format_duration(time.monotonic() - begun)}.\n")
    _summarise(runs[0][0].outputs, sorted({params.setting for params, _ in runs}), None)
    return COMPLETE


def _report(options: argparse.Namespace) -> int:
    """Write one HTML page with the results of all runs."""
    _summarise(options.outputs, options.setting, options.to)
    return COMPLETE


def _summarise(outputs: str, settings: list[str], target: str | None) -> None:
    """Print the headline results and write the report."""
    from ovparts_lib.runs import resolve_path
    from ovparts_lib.runs.listing import find_runs, format_table, headline_rows
    from ovparts_lib.runs.report import write_report

    folder = resolve_path(outputs)
    runs = find_runs(folder, settings)
    if not runs:
        raise FileNotFoundError(f"there are no runs in {folder}")
    rows = headline_rows(runs)
    for protocol in dict.fromkeys(row["protocol"] for row in rows):  # figures of different protocols do not mix
        print(f"Protocol {protocol}, mIoU in percent")
        of_protocol = [{k: v for k, v in row.items() if k != "protocol"} for row in rows if row["protocol"] == protocol]
        print(format_table(of_protocol) + "\n")
    if not rows:
        print("No run has results yet.\n")
    path = write_report(runs, Path(target).expanduser() if target else folder / "report.html")
    print(f"Report: {path.resolve().as_uri()}")


def _runs(options: argparse.Namespace) -> int:
    """List all runs and their states."""
    from ovparts_lib.runs import resolve_path
    from ovparts_lib.runs.listing import find_runs, format_table

    folder = resolve_path(options.outputs)
    rows = []
    for run in find_runs(folder, options.setting):
        started = str(run.provenance.get("started_utc", ""))[:16].replace("T", " ")
        facts = {name: getattr(run, name) for name in ("setting", "run", "notebook", "state")}
        rows.append(facts | {"started (UTC)": started})
    print(format_table(rows) or f"There are no runs in {folder}.")
    return COMPLETE


def _verify(options: argparse.Namespace) -> int:
    """Check a data set: files, sizes, labels, pictures in both train and val."""
    from ovparts_lib.data.registry import verify_dataset

    report = verify_dataset(options.dataset, _here_or_in_project(options.data_root), progress=sys.stderr.isatty())
    print(report.to_markdown())
    return COMPLETE if report.ok else FAILED


def _prepare(options: argparse.Namespace) -> int:
    """Write a benchmark's label files from the official archive."""
    from ovparts_lib.data.prepare import prepare_dataset

    source, target = _here_or_in_project(options.source), _here_or_in_project(options.target)
    report = prepare_dataset(options.dataset, source, target, progress=sys.stderr.isatty())
    print(report.to_markdown())
    return COMPLETE if report.ok else FAILED


def _train_miniclip(options: argparse.Namespace) -> int:
    """Train the miniature's CLIP anew (an hour of one core).

    The package brings one; this is how it was made.

    Example:
      ovparts train-miniclip ovparts_lib/miniature/miniclip.safetensors
    """
    from ovparts_lib.miniature.miniclip import MiniClipSettings
    from ovparts_lib.miniature.shipped import make_miniclip
    from ovparts_lib.runs import project_root
    from ovparts_lib.runs.provenance import git_state

    settings = MiniClipSettings(seed=options.seed)
    if options.iterations:
        settings = replace(settings, iterations=options.iterations)
    commit = (git_state(project_root()) or {}).get("commit", "")
    make_miniclip(options.to, settings, commit=commit, device=options.device)
    print(f"written: {options.to} and {options.to.with_suffix('.json').name}")
    return COMPLETE


def _submit(options: argparse.Namespace) -> int:
    """Send a run to SLURM.

    Parameters are checked now and frozen for the job. A preempted or timed-out job resumes by itself.

    Examples:
      ovparts submit params/zero_shot/clipseg_pascal_part_116.yaml --partition gpu --gpus 1 --hours 12
      ovparts submit params/zero_shot/clipseg_pascal_part_116.yaml --set seed=1 --set run=clipseg_seed_1
      ovparts submit params/miniature/20_clipseg.yaml --cluster local      a background process on this machine
    """
    from ovparts_lib.runs import load_parameters
    from ovparts_lib.runs.project import display_path
    from ovparts_lib.runs.submit import submit

    asked = {name: getattr(options, name) for name in ("partition", "account", "gpus", "cpus", "memory_gb", "hours")}
    job = submit(options.params, options.set, again=options.again, cluster=options.cluster, **asked)
    folder = load_parameters(options.params, options.set).folder
    print(f"submitted job {job.job_id}: {display_path(folder)}\nfollow it with: tail -F {job.paths.stdout}")
    return COMPLETE


def _parser() -> argparse.ArgumentParser:
    about, _, examples = __doc__.partition("\n")
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("ovparts", description=about, epilog=examples, formatter_class=as_written)
    parser.add_argument("--version", action="version", version=f"ovparts {ovparts_lib.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    values, again, outputs = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    values.add_argument("params", metavar="PARAMS", help="YAML file, e.g. params/miniature/20_clipseg.yaml")
    values.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="replace a value; repeatable")
    again.add_argument("--again", action="store_true", help="empty the run folder and start over")
    outputs.add_argument("--outputs", metavar="FOLDER", default="outputs", help="folder of all runs (%(default)s)")
    outputs.add_argument("--setting", action="append", default=[], help="only runs of this setting; repeatable")

    def command(
        name: str, action: Callable[[argparse.Namespace], int], *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        about = inspect.getdoc(action)
        first = about.partition("\n")[0].rstrip(".")
        added = commands.add_parser(name, help=first, description=about, formatter_class=as_written, parents=parents)
        added.add_argument("--traceback", action="store_true", help="show where an error comes from")
        added.set_defaults(action=action)
        return added

    command("run", _run, values, again)
    command("params", _params, values)

    demo = command("demo", _demo)
    demo.add_argument("params", metavar="PARAMS", nargs="*", help="parameter files (all of params/miniature)")
    demo.add_argument("--again", action="store_true", help="start over instead of reusing what is complete")
    demo.add_argument("--jobs", type=_at_least(1), help="systems trained at a time (one per core; one on a GPU)")

    verify = command("verify", _verify)
    verify.add_argument("data_root", metavar="FOLDER", help="folder of the data set as released")
    verify.add_argument("--dataset", choices=DATASETS, default=next(iter(DATASETS)), help="which it is (%(default)s)")

    prepare = command("prepare", _prepare)
    prepare.add_argument("dataset", metavar="NAME", choices=PREPARED, help=f"which benchmark: {', '.join(PREPARED)}")
    prepare.add_argument("source", metavar="SOURCE", help="the archive, unpacked, as its authors distribute it")
    prepare.add_argument("target", metavar="TARGET", help="the benchmark's folder, often SOURCE itself")

    clip = command("train-miniclip", _train_miniclip)
    clip.add_argument("to", metavar="FILE", type=Path, help="weights to write (.safetensors), and facts beside them")
    clip.add_argument("--iterations", type=_at_least(1), help="training steps (as many as the package's)")
    clip.add_argument("--seed", type=_at_least(0), default=0, help="of weights and pictures (%(default)s)")
    clip.add_argument("--device", default="cpu", help="where to train (%(default)s)")

    command("runs", _runs, outputs)

    report = command("report", _report, outputs)
    report.add_argument("--to", metavar="FILE", help="where to write it (report.html in the folder of all runs)")

    submit = command("submit", _submit, values, again)
    submit.add_argument("--partition", help="partition (the cluster's default)")
    submit.add_argument("--account", help="account (your default)")
    submit.add_argument("--gpus", type=_at_least(0), default=1, help="GPUs (%(default)s)")
    submit.add_argument("--cpus", type=_at_least(1), default=8, help="CPU cores (%(default)s)")
    memory = {"dest": "memory_gb", "metavar": "GB", "help": "memory in GB (%(default)s)"}
    submit.add_argument("--memory", type=_at_least(1), default=32, **memory)
    submit.add_argument("--hours", type=_at_least(0, float), default=12.0, help="limit of one stretch (%(default)s)")
    submit.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="where to run (%(default)s)")
    return parser


def _at_least(least: int, kind: type = int) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= least):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {what} of at least {least}, not {text!r}")
        return number

    return read


def _here_or_in_project(path: str) -> Path:
    from ovparts_lib.runs import resolve_path

    here = Path(path).expanduser()
    return here if here.exists() else resolve_path(path)


def _repeatable(params: str | Path, overrides: Sequence[str]) -> str:
    """The command a person would type to repeat or resume a run."""
    from ovparts_lib.runs.project import display_path, project_root

    # The file may have been found in the project root rather than in the working directory.
    file = Path(params).expanduser()
    shown = display_path(file if file.is_file() else project_root() / file)
    return shlex.join(["ovparts", "run", shown, *(item for key in overrides for item in ("--set", key))])


def _exit_code(error: Exception) -> int:
    from ovparts_lib.runs import ParameterError, RunConflictError, RunLockedError

    if isinstance(error, RunLockedError):
        return LOCKED
    wrong_use = isinstance(error, ParameterError | RunConflictError) or _is_long_name(error)
    return WRONG_USE if wrong_use else FAILED


def _is_long_name(error: Exception) -> bool:
    """Whether a name that a user gave is too long; the program's own have at most 200 bytes."""
    if not isinstance(error, OSError) or error.errno != errno.ENAMETOOLONG:
        return False
    return any(len(os.fsencode(part)) > 200 for part in Path(error.filename or "").parts)


def _one_line(error: Exception) -> str:
    """What went wrong, in the words of our own errors; foreign ones are named with their type."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).strip()
    if isinstance(error, OSError) and error.filename and str(error.filename) not in text:
        text = f"{error.filename}: {text}"
    if _is_long_name(error):
        text += "; shorten it (file systems take 255 bytes for a name)"
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        text += "; work in a folder with a shorter path, or on a file system that takes longer ones"
    ours = type(error).__module__.startswith("ovparts_lib")
    return text if ours or isinstance(error, OSError) else f"{type(error).__name__}: {text} (--traceback shows where)"


if __name__ == "__main__":
    sys.exit(main())

"""Executing a notebook as a run, and saying truthfully how it went."""

import logging
import re
import sys
import time
import uuid
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from ovparts_lib.atomic import write_atomically
from ovparts_lib.processes import Terminated, environment, stoppable, write
from ovparts_lib.runs.folder import (
    EXECUTION_LOCK,
    EXECUTION_VARIABLE,
    make_folder,
    prepare_folder,
    read_json,
    run_state,
)
from ovparts_lib.runs.load_params import check_hardware
from ovparts_lib.runs.lock import FolderLock
from ovparts_lib.runs.parameters import RunParameters
from ovparts_lib.runs.project import ROOT_VARIABLE, display_path, import_path, project_root
from ovparts_lib.runs.provenance import COMMAND_VARIABLE

COMPLETE, FAILED, LOCKED, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143
RUNNING, EXECUTED, BROKEN = "notebook.running.ipynb", "notebook.ipynb", "notebook.failed.ipynb"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TRACEBACK_LINES, _LOG_LINES, _LONGEST_LINE = 12, 3, 200


class NotebookError(RuntimeError):
    """A notebook is missing, unreadable, or has no cell that parameters can replace."""


def execute(params: RunParameters, *, again: bool = False, command: str | None = None) -> int:
    """Run the notebook of ``params`` headless in its run folder; a partial run is resumed, a complete one is left.

    A notebook that collects what other runs left (``reuse`` of its parameters model is False) is run again instead.

    What the notebook prints is passed on to stdout and stderr. The executed notebook is ``notebook.ipynb`` in the run
    folder, or ``notebook.failed.ipynb`` if it did not get through, ``notebook.running.ipynb`` meanwhile.

    Args:
        params: parameters of the run; all of them are handed to the notebook.
        again: throw away what the run folder holds and start over.
        command: how a person would repeat this, for provenance and for the hint after a failure.

    Returns:
        0 if the run is complete (its ``results.json`` says so), 1 if it failed, 3 if another process took the folder,
        130 after Ctrl-C, 143 after SIGTERM and SIGHUP.

    Raises:
        NotebookError: the notebook is missing or has no parameters cell. Nothing was started.
        ParameterError: this machine lacks the device that the parameters ask for.
        RunLockedError: another process works in the run folder.
        RunConflictError: the run folder holds a run with other parameters.
        DiskFullError: no space left for the files of the run.
    """
    notebook = find_notebook(params.notebook)
    command = command or f"notebook {params.notebook}"
    if not again and params.reuse and run_state(params) == "complete":
        _name_notebook(params.folder, COMPLETE)  # unless a kill came between the results and this
        _say(f"{display_path(params.folder)} is complete already; --again would start over")
        return COMPLETE
    check_hardware(params)
    make_folder(params.folder)
    lock = FolderLock(params.folder / EXECUTION_LOCK)
    lock.acquire()
    try:
        prepare_folder(params, again=again, redo=True)
        return _Execution(params, notebook, command).run()
    finally:
        lock.release()


def find_notebook(name: str) -> Path:
    """``notebooks/<name>.ipynb`` of the project.

    Raises:
        NotebookError: there is no such file, it is no notebook, or it has not exactly one cell tagged ``parameters``
            (papermill would put ours in front of everything, and the notebook's own would win).
    """
    import nbformat

    path = project_root() / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        raise NotebookError(f"there is no notebook {display_path(path)} in {project_root()}")
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise NotebookError(f"{display_path(path)}: cannot be read as a notebook: {error}") from error
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in cells)
    if tagged != 1:
        raise NotebookError(f"{display_path(path)}: {tagged} cells are tagged `parameters`, expected one")
    return path


class _Execution:
    """One execution of one notebook."""

    def __init__(self, params: RunParameters, notebook: Path, command: str) -> None:
        self.params = params
        self.notebook = notebook
        self.command = command
        self.identity = uuid.uuid4().hex
        self.folder = params.folder
        self.begun = time.monotonic()

    def run(self) -> int:
        """Execute, keep the executed notebook under the name it deserves, and return the exit code."""
        # Jupyter takes most of a second to import, which `ovparts --help` and `ovparts runs` need not wait for.
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError

        from ovparts_lib.runs.kernel import InterpreterKernelManager, describe_exit

        resumed = " (resumed)" if (self.folder / "log.jsonl").exists() else ""
        _say(f"{self.params.notebook} in {display_path(self.folder)}{resumed}")
        code = FAILED
        try:
            self._execute()
            code = self._verdict()
        except PapermillExecutionError as error:
            code = LOCKED if error.ename == "RunLockedError" else FAILED
            self._report_cell(error)
        except DeadKernelError:
            status = describe_exit(InterpreterKernelManager.exit_status)
            self._complain(f"the kernel of {self.params.notebook} died after {self._elapsed()}: {status}")
            self._report_resume()
        except KeyboardInterrupt as stop:
            code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
            self._complain(f"{self.params.notebook} was stopped after {self._elapsed()}")
            self._report_resume()
        finally:
            _name_notebook(self.folder, code)
        if code == COMPLETE:
            _say(f"complete after {self._elapsed()}: {display_path(self.folder)}")
        return code

    def _execute(self) -> None:
        import papermill.log
        from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
        from papermill.iorw import LocalHandler, papermill_io

        from ovparts_lib.runs.kernel import InterpreterKernelManager

        InterpreterKernelManager.exit_status, InterpreterKernelManager.busy = None, False
        variables = {
            ROOT_VARIABLE: str(project_root()),
            EXECUTION_VARIABLE: self.identity,
            COMMAND_VARIABLE: self.command,
            "PYTHONPATH": import_path(),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the debugger, which is not used, warns on every start
        }
        files = LocalHandler()
        files.write = lambda content, path: write_atomically(Path(path), content)  # a full disk cuts no notebook
        papermill_io.register(str(self.folder), files)
        # papermill calls a parameter unknown if the parameters cell leaves it at its default; ours have been checked.
        papermill.log.logger.setLevel(logging.CRITICAL)
        with environment(**variables), stoppable():
            papermill.execute_notebook(
                _literal(self.notebook),
                _literal(self.folder / RUNNING),
                parameters=self.params.model_dump(),
                kernel_name=NATIVE_KERNEL_NAME,
                language="python",
                kernel_manager_class=InterpreterKernelManager,
                cwd=project_root(),
                progress_bar=False,
                stdout_file=_passed_on(sys.stdout),
                stderr_file=_passed_on(sys.stderr),
                on_cell_start=self._announce,
                on_cell_execute=lambda **_: setattr(InterpreterKernelManager, "busy", True),
                on_cell_executed=lambda **_: setattr(InterpreterKernelManager, "busy", False),
            )

    def _announce(self, cell: Any, cell_index: int) -> None:
        """Print the heading of each section as it begins."""
        if cell.cell_type == "markdown":
            heading = next((line for line in cell.source.splitlines() if line.startswith("#")), None)
            if heading:
                _say(f"[{self._elapsed():>10}] {heading.lstrip('#').strip()}")

    def _verdict(self) -> int:
        """Exit code of a notebook that ran to its end: did it finish the run, and was it this execution that did?"""
        results = read_json(self.folder / "results.json")
        if run_state(self.params) == "complete" and results.get("execution") == self.identity:
            return COMPLETE
        why = "results.json was not written by this execution. The notebook must end with RunOutput.finish"
        self._complain(f"{self.params.notebook} ran to its end, but the run is not complete: {why}")
        return FAILED

    def _report_cell(self, error: Any) -> None:
        where = f"{self.params.notebook} failed in cell [{error.exec_count}] after {self._elapsed()}"
        self._complain(f"{where}: {error.ename}: {error.evalue}")
        lines = [line for part in error.traceback for line in _COLOUR.sub("", part).splitlines() if line.strip()]
        _quote("the end of the traceback", lines[-_TRACEBACK_LINES:])
        self._report_resume()

    def _report_resume(self) -> None:
        log = self.folder / "log.jsonl"
        if log.is_file():
            _quote("the end of log.jsonl", log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        resumable = any(True for _ in self.folder.glob("checkpoints/step_*.pt"))
        advice = "resume from the last checkpoint" if resumable else "run it again"
        write(f"  executed so far: {display_path(self.folder / BROKEN)}\n  {advice} with: {self.command}\n", sys.stderr)

    def _complain(self, message: str) -> None:
        write(f"ovparts: {message}\n", sys.stderr)

    def _elapsed(self) -> str:
        return format_duration(time.monotonic() - self.begun)


def _name_notebook(folder: Path, code: int) -> None:
    """Give the executed notebook the name that it deserves."""
    running = folder / RUNNING
    if running.exists():
        running.replace(folder / (EXECUTED if code == COMPLETE else BROKEN))
    if code == COMPLETE:
        (folder / BROKEN).unlink(missing_ok=True)


def format_duration(seconds: float) -> str:
    """``"12 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _literal(path: Path) -> str:
    """A path that papermill, which formats paths with ``str.format``, leaves as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _passed_on(stream: TextIO) -> SimpleNamespace:
    """What papermill writes to a stream, which may lose its reader."""
    return SimpleNamespace(write=partial(write, stream=stream), flush=lambda: None)


def _say(message: str) -> None:
    write(f"{message}\n", sys.stdout)


def _quote(title: str, lines: list[str]) -> None:
    write("\n".join([f"  {title}:", *(f"    | {line[:_LONGEST_LINE]}" for line in lines), ""]), sys.stderr)

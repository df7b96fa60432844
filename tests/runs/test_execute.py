import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from ovparts_lib.atomic import DiskFullError
from ovparts_lib.runs import RunLockedError, run_state
from ovparts_lib.runs.execute import COMPLETE, FAILED, NotebookError, _Execution, execute, format_duration
from ovparts_lib.runs.kernel import describe_exit
from ovparts_lib.runs.lock import FolderLock
from ovparts_lib.runs.parameters import MINIATURE_ROOT, StartHereParameters, parameter_models
from ovparts_lib.runs.project import package_parent


def start(task=MINIATURE_ROOT, **changed):
    return StartHereParameters(setting="miniature", run="start", data_root=task, **changed)


def names(params):
    return {path.name for path in params.folder.iterdir() if path.suffix == ".ipynb"}


def test_a_run_completes_once(notebook, root, capfd, monkeypatch):
    monkeypatch.setattr(StartHereParameters, "reuse", True)
    params = start(samples=7)
    assert execute(params, command="ovparts run x.yaml") == COMPLETE
    printed = capfd.readouterr()
    assert f"working in {root} as {MINIATURE_ROOT}" in printed.out
    assert "] The work cell" in printed.out
    assert "complete after" in printed.out
    assert "ovparts:" not in printed.err  # a kernel slow to leave may say so itself
    assert "KeyboardInterrupt" not in printed.err
    assert names(params) == {"notebook.ipynb"}
    executed = nbformat.read(params.folder / "notebook.ipynb", as_version=4)
    assert executed.metadata.papermill.exception is None
    provenance = json.loads((params.folder / "provenance.json").read_text())
    assert provenance["command"] == "ovparts run x.yaml"
    assert provenance["python"] == ".".join(map(str, sys.version_info[:3]))

    # Killed between its results and the notebook's name.
    (params.folder / "notebook.ipynb").rename(params.folder / "notebook.running.ipynb")
    assert execute(params) == COMPLETE
    assert "is complete already" in capfd.readouterr().out
    assert names(params) == {"notebook.ipynb"}
    assert len((params.folder / "log.jsonl").read_text().splitlines()) == 1
    assert json.loads((params.folder / "provenance.json").read_text()) == provenance  # it was not even opened


def test_a_notebook_that_collects_is_run_again(notebook, root, capfd):
    assert execute(start()) == COMPLETE
    assert execute(start()) == COMPLETE
    assert "is complete already" not in capfd.readouterr().out
    assert json.loads((start().folder / "results.json").read_text())["headline"] == [{"steps": 2}]
    assert [name for name, model in parameter_models().items() if not model.reuse] == [
        "00_start_here",
        "30_results",
        "31_own_image",
        "32_compare_protocols",
    ]


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("step_00000010-0123456789abcdef.pt", "resume from the last checkpoint with: x"),
        ("step_00000010-0123456789abcdef.pt.corrupt", "run it again with: x"),
        (".step_00000010.partial", "run it again with: x"),
    ],
)
def test_only_what_has_a_checkpoint_is_resumed_from_it(params, root, capfd, file, advice):
    (params.folder / "checkpoints").mkdir(parents=True)
    (params.folder / "checkpoints" / file).touch()
    _Execution(params, root / "notebook.ipynb", "x")._report_resume()
    assert advice in capfd.readouterr().err


def test_a_full_disk_cuts_no_executed_notebook(notebook, root, monkeypatch):
    params, flush = start(), os.fsync

    def full_after_the_work_cell(descriptor):
        if (params.folder / "log.jsonl").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_the_work_cell)
    with pytest.raises(DiskFullError, match=r"no space left to write .*notebook\.running\.ipynb"):
        execute(params)
    cells = nbformat.read(params.folder / "notebook.failed.ipynb", as_version=4).cells
    assert [cell.source for cell in cells if cell.cell_type == "code"][2].startswith("import os")
    assert [path.name for path in params.folder.glob(".*.part")] == []


def test_kill_9_of_the_kernel_then_resume(notebook, root, capfd):
    params = start("kill")
    assert execute(params, command="ovparts run x.yaml") == FAILED
    error = capfd.readouterr().err
    assert "the kernel of 00_start_here died" in error
    assert "killed by SIGKILL; out of memory is the most common reason" in error
    assert '| {"step": 1}' in error
    assert "run it again with: ovparts run x.yaml" in error  # it trains nothing, so there is no checkpoint
    assert names(params) == {"notebook.failed.ipynb"}
    assert run_state(params) == "partial"
    assert not is_alive(int((params.folder / "child").read_text()))

    assert execute(params) == COMPLETE
    assert "(resumed)" in capfd.readouterr().out
    assert json.loads((params.folder / "results.json").read_text())["headline"] == [{"steps": 2}]
    assert names(params) == {"notebook.ipynb"}


def is_alive(pid):
    """Whether a process still runs a little later (a killed one may wait a moment to be collected)."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_cell_that_fails(write_notebook, capfd):
    write_notebook(read="print('so far so good')", work="\n\nraise ValueError('the picture dog.jpg cannot be read')")
    assert execute(start()) == FAILED
    error = capfd.readouterr().err
    # on a busy machine the kernel may say before that its output is slow to leave
    (failure,) = [line for line in error.splitlines() if line.startswith("ovparts: ")]
    assert failure.startswith("ovparts: 00_start_here failed in cell [4] after ")
    assert "ValueError: the picture dog.jpg cannot be read" in failure
    assert re.search(r"----> \d raise ValueError", error)
    assert names(start()) == {"notebook.failed.ipynb"}


def test_a_notebook_that_does_not_finish_is_no_complete_run(write_notebook, capfd):
    write_notebook(read="import sys", work="sys.exit(0)", finish=None)
    assert execute(start()) == FAILED
    assert "the run is not complete" in capfd.readouterr().err
    assert names(start()) == {"notebook.failed.ipynb"}


def test_nothing_is_started_when_something_is_wrong(root, write_notebook):
    with pytest.raises(NotebookError, match=r"there is no notebook notebooks/00_start_here\.ipynb"):
        execute(start())
    write_notebook(parameters=None)
    with pytest.raises(NotebookError, match="0 cells are tagged `parameters`"):
        execute(start())
    (root / "notebooks" / "00_start_here.ipynb").write_text("{}")
    with pytest.raises(NotebookError, match="cannot be read as a notebook"):
        execute(start())
    assert not (root / "outputs").exists()
    write_notebook()
    start().folder.mkdir(parents=True)
    lock = FolderLock(start().folder / ".execution.lock")
    lock.acquire()
    with pytest.raises(RunLockedError, match=rf"process {os.getpid()} on"):
        execute(start())
    lock.release()


def test_plain_papermill_from_anywhere_refuses_an_unknown_key(notebook, root, tmp_path):
    """papermill itself goes on with a key that no notebook reads."""
    (tmp_path / "wrong.yaml").write_text("sampels: 9\n")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", notebook, "out.ipynb", "-f", "wrong.yaml", "-k", "python3", "-l", "python"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package_parent())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "sampels: unknown parameter; did you mean `samples`?" in done.stderr
    assert not (root / "outputs").exists()


def test_words_for_people():
    assert [format_duration(s) for s in (0.4, 59, 185, 7800)] == ["0 s", "59 s", "3 min 05 s", "2 h 10 min"]
    assert describe_exit(-11) == "killed by SIGSEGV; native code crashed"
    assert describe_exit(1) == "ended with exit status 1"
    assert describe_exit(None) == "ended without an exit status"

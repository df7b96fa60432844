import os
import pty
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from ovparts_lib import progress_bar
from ovparts_lib.training import progress
from ovparts_lib.training.progress import Pace, Progress

ENTRY = {"step": 20, "loss": 0.123456, "learning_rate": 9.5e-5, "images_per_second": 12.34}


@pytest.fixture(params=[True, False], ids=["attended", "headless"])
def attended(request, monkeypatch):
    monkeypatch.setattr(progress, "is_attended", lambda: request.param)
    return request.param


def test_a_bar_for_people_and_lines_for_logs(attended, capsys):
    bar = Progress(100, 19)
    bar.advance()
    bar.report(ENTRY, seconds_left=4_000)
    bar.say("step 20  mIoU 3")
    bar.close()
    shown = capsys.readouterr()
    if attended:
        assert "20/100" in shown.err
        assert "loss=0.1235, lr=9.5e-05, images/s=12.3" in shown.err
        assert shown.out == "resuming at step 19 of 100\nstep 20  mIoU 3\n"
    else:
        assert shown.err == ""
        assert shown.out.splitlines() == [
            "resuming at step 19 of 100",
            "step 20/100  loss 0.1235  lr 9.5e-05  images/s 12.3  time left 1:06:40",
            "step 20  mIoU 3",
        ]


def test_silence_on_request(attended, capsys):
    bar = Progress(100, 19, shown=False)
    bar.advance()
    bar.report(ENTRY, seconds_left=4_000)
    bar.say("anything")
    bar.close()
    assert capsys.readouterr() == ("", "")


# The file alone, as the package would import torch.
ASK = f"import runpy; print(runpy.run_path({progress_bar.__file__!r})['is_attended']())"


def test_a_terminal_is_attended_and_a_pipe_is_not():
    piped = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert piped.stdout.strip() == "False"
    owner, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK], stdout=subprocess.PIPE, stderr=terminal, text=True, check=True
        )
    finally:
        os.close(owner)
        os.close(terminal)
    assert done.stdout.strip() == "True"


def test_a_kernel_without_a_person_is_headless():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ASK)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert notebook.cells[0].outputs[0].text.strip() == "False"


def test_a_kernel_that_may_ask_for_input_is_attended(monkeypatch):
    class Kernel:
        _allow_stdin = True

    class Shell:
        kernel = Kernel()

    class IPython:
        get_ipython = staticmethod(lambda: Shell())

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert progress_bar.is_attended()
    Kernel._allow_stdin = False
    assert not progress_bar.is_attended()


def test_pace_leaves_out_what_happens_between_steps(monkeypatch):
    now = iter([100.0, 101.0, 103.0, 113.0, 115.0, 120.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    pace = Pace(seconds=50.0)
    for _ in range(2):
        pace.start_step()
        pace.end_step(8)
    assert pace.read() == (16 / 4, 4 / 2)
    assert pace.seconds == 70.0


def test_a_bar_that_nobody_watches_is_text_and_ends_full(monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "is_attended", lambda: False)
    monkeypatch.setattr("tqdm.auto.tqdm", lambda *arguments, **options: pytest.fail("a widget"))
    assert list(progress_bar.tqdm(range(3), desc="Evaluating", unit="image")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err.splitlines()[-1]

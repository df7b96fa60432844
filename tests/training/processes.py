"""Start ``train_toy.py`` and wait for it to get somewhere."""

import os
import subprocess
import sys
import time

import torch

from ovparts_lib.training import read_log

SECONDS = 300  # patience with a busy machine


def start(folder, *arguments):
    folder.mkdir(exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # so that sums are rounded as in this process
    command = [sys.executable, "-m", "tests.training.train_toy", str(folder), *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **threads}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process, folder, step):
    deadline = time.monotonic() + SECONDS
    while not (entries := read_log(folder / "log.jsonl")) or entries[-1]["step"] < step:
        assert process.poll() is None, f"the training ended early: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "the training does not get on"
        time.sleep(0.01)

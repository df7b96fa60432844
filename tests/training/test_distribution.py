import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment

from ovparts_lib.training import TrainingSettings, distribution, launch, read_log, train
from ovparts_lib.training.checkpoint_files import checkpoint_files
from tests.training.processes import SECONDS, start, wait_for_step
from tests.training.toy import ToyModel, toy_loader
from tests.training.train_toy import toy_settings


def finish(process):
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return out


def test_two_processes_equal_one_with_their_batches_together(tmp_path):
    """Also where a step draws the classes it trains on: from the whole batch, and the same on every rank."""
    finish(start(tmp_path / "two", "--devices", "2", "--dropout", "0", "--queries", "2"))
    one = ToyModel(dropout=0.0, queries=2)
    alone = train(one, toy_loader(), toy_settings(), run_dir=tmp_path / "one")
    weights = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    history = pd.read_csv(tmp_path / "two" / "history.csv")
    for column in ("step", "loss", "losses/loss_class", "gradient_norm", "learning_rate"):
        torch.testing.assert_close(
            torch.tensor(history[column]), torch.tensor(alone[column]), rtol=1e-4, atol=1e-6, msg=column
        )


@pytest.mark.slow
def test_two_processes_start_inside_a_slurm_job_of_one_task(tmp_path, monkeypatch):
    for name, value in SLURM_TASK.items():
        monkeypatch.setenv(name, value)
    finish(start(tmp_path / "two", "--devices", "2"))
    assert (tmp_path / "two" / "weights.pt").is_file()


SLURM_TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "ovparts",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


class RecordedFabric:
    """Takes what launch hands to Fabric and starts nothing."""

    def __init__(self, **options):
        self.options = options

    def launch(self):
        return None


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine on which torch finds two CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(distribution, "Fabric", RecordedFabric)
    monkeypatch.setattr(distribution.atexit, "register", lambda function: None)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.mark.parametrize(
    ("device", "accelerator", "devices"),
    [("cuda:1", "cuda", [1]), ("cuda", "cuda", 1), ("auto", "cuda", 1), ("cpu", "cpu", 1)],
)
def test_the_device_that_is_named_is_the_one_that_trains(two_gpus, device, accelerator, devices):
    options = launch(TrainingSettings(device=device)).options
    assert (options["accelerator"], options["devices"]) == (accelerator, devices)


def test_no_cluster_starts_the_processes(two_gpus):
    assert isinstance(launch(TrainingSettings(devices=2)).options["plugins"], LightningEnvironment)


def test_a_device_that_is_not_there_is_named(two_gpus, monkeypatch):
    with pytest.raises(ValueError, match=r"device is 'cuda:2', but torch finds 2 CUDA devices, the last .* 'cuda:1'"):
        launch(TrainingSettings(device="cuda:2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda:0', but torch finds no CUDA device"):
        launch(TrainingSettings(device="cuda:0"))


def test_inside_a_notebook_the_error_says_how_to_train_on_several_devices(two_gpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with pytest.raises(ValueError, match="set devices: 2 in the parameters and the notebook starts the processes"):
        launch(TrainingSettings(devices=2))


@pytest.mark.slow
def test_two_processes_stopped_by_a_signal_to_one_resume_to_the_same_weights(tmp_path):
    finish(start(tmp_path / "whole", "--devices", "2"))
    stopped = start(tmp_path / "stopped", "--devices", "2", "--pause", "0.02")
    wait_for_step(stopped, tmp_path / "stopped", 10)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=SECONDS)
    assert stopped.returncode != 0
    assert "start it again to go on from there" in err
    finish(start(tmp_path / "stopped", "--devices", "2"))
    whole, resumed = (torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "stopped"))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_non_finite_loss_on_one_rank_stops_all_of_them(tmp_path, rank):
    process = start(tmp_path / "run", "--devices", "2", "--nan-rank", str(rank))
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "training stopped before update 3: " in err
    assert "loss_size is nan" in err
    losses = [
        torch.load(tmp_path / "run" / "non_finite" / f"step_00000003_rank{each}.pt", weights_only=True)["losses"]
        for each in (0, 1)
    ]
    assert [any(loss["loss_size"].isnan() for loss in each) for each in losses] == [rank == 0, rank == 1]


BESIDE = """
import sys
from ovparts_lib.training.interruption import run_beside
run_beside([sys.executable, "-m", "tests.training.train_toy", *sys.argv[1:]])
"""


def start_beside(folder, *arguments):
    """A process that, as a notebook's kernel does, waits for a training on two devices beside it."""
    folder.mkdir()
    command = [sys.executable, "-c", BESIDE, folder, "--devices", "2", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_who_waits_for_two_devices_is_passed_on_and_a_checkpoint_awaited(tmp_path, number):
    folder = tmp_path / "stopped"
    waiting = start_beside(folder, "--pause", "0.2")
    wait_for_step(waiting, folder, 8)
    os.killpg(waiting.pid, number)
    os.killpg(waiting.pid, signal.SIGINT)  # and again, by `ovparts run`
    _, err = waiting.communicate(timeout=SECONDS)
    assert waiting.returncode != 0
    assert "training was interrupted" in err
    (*_, newest) = checkpoint_files(folder / "checkpoints")
    assert int(newest.name[5:13]) == read_log(folder / "log.jsonl")[-1]["step"] >= 8


@pytest.mark.slow
def test_ranks_die_with_who_waits_for_them(tmp_path):
    folder = tmp_path / "killed"
    waiting = start_beside(folder, "--pause", "0.2")
    wait_for_step(waiting, folder, 2)
    waiting.kill()
    time.sleep(2)
    step = read_log(folder / "log.jsonl")[-1]["step"]
    time.sleep(3)
    assert read_log(folder / "log.jsonl")[-1]["step"] == step


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_training_with_a_sentence(tmp_path):
    _, err = start(tmp_path / "run", "--devices", "2", "--hang-rank", "1").communicate(timeout=SECONDS)
    assert "waits for another rank that has ended or has stood still for" in err

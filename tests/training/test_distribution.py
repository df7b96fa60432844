import signal

import pandas as pd
import pytest
import torch

from ovparts_lib.training import train
from tests.training.processes import SECONDS, start, wait_for_step
from tests.training.toy import ToyModel, toy_loader
from tests.training.train_toy import toy_settings


def finish(process):
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return out


def test_two_processes_equal_one_with_their_batches_together(tmp_path):
    finish(start(tmp_path / "two", "--devices", "2", "--dropout", "0"))
    one = ToyModel(dropout=0.0)
    result = train(one, toy_loader(), toy_settings(), run_dir=tmp_path / "one")
    weights = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    history = pd.read_csv(tmp_path / "two" / "history.csv")
    for column in ("step", "loss", "losses/loss_class", "gradient_norm", "learning_rate"):
        torch.testing.assert_close(
            torch.tensor(history[column]), torch.tensor(result.history[column]), rtol=1e-4, atol=1e-6, msg=column
        )


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

"""A training in a process of its own, to be killed, signalled or spread over several processes by the tests."""

import argparse
import time
from datetime import timedelta
from pathlib import Path

import torch

from ovparts_lib.training import TrainingSettings, distribution, launch, train
from tests.training.toy import ToyModel, toy_loader


def toy_settings(**changes):
    usual = {"iterations": 40, "batch_size": 4, "accumulate": 2, "learning_rate": 1e-2, "gradient_clip": 0.5}
    return TrainingSettings(**{**usual, "checkpoint_every": 7, "log_every": 1, "device": "cpu", **changes})


class SlowModel(ToyModel):
    """Takes its time, so that there is time to interfere; and may meet a NaN on one rank."""

    def __init__(self, pause=0.0, nan_at=None, hang_at=None, **options):
        super().__init__(**options)
        self.pause, self.nan_at, self.hang_at = pause, nan_at, hang_at

    def loss(self, batch):
        time.sleep(600 if self.calls == self.hang_at else self.pause)
        terms = super().loss(batch)
        return {**terms, "loss_size": terms["loss_size"] * torch.nan} if self.calls == self.nan_at else terms


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--nan-rank", type=int)
    parser.add_argument("--hang-rank", type=int)
    choices = parser.parse_args()

    settings = toy_settings(devices=choices.devices)
    if choices.hang_rank is not None:
        distribution._STEP_PATIENCE = timedelta(seconds=5)
    fabric = launch(settings)
    nan_at = 5 if fabric.global_rank == choices.nan_rank else None
    hang_at = 5 if fabric.global_rank == choices.hang_rank else None
    model = SlowModel(choices.pause, nan_at, hang_at, dropout=choices.dropout, queries=choices.queries)
    loader = toy_loader(workers=choices.workers, rank=fabric.global_rank, world_size=fabric.world_size)
    result = train(model, loader, settings, run_dir=choices.folder, fabric=fabric)
    if fabric.is_global_zero:
        torch.save(model.state_dict(), choices.folder / "weights.pt")
        result.history.to_csv(choices.folder / "history.csv", index=False)


if __name__ == "__main__":
    main()

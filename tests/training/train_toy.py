"""A training in a process of its own, to be killed, signalled or spread over several processes by the tests."""

import argparse
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import distributed_c10d

from ovparts_lib.training import TrainingSettings, launch, train
from tests.training.toy import ToyModel, toy_loader


def toy_settings(**changes):
    usual = {"iterations": 40, "batch_size": 4, "accumulate": 2, "learning_rate": 1e-2, "gradient_clip": 0.5}
    return TrainingSettings(**{**usual, "checkpoint_every": 7, "log_every": 1, "device": "cpu", **changes})


class SlowModel(ToyModel):
    """Takes its time, so that there is time to interfere; may meet a NaN on one rank, or wait for one in vain."""

    def __init__(self, pause=0.0, nan_at=None, hangs=None, **options):
        super().__init__(**options)
        self.pause, self.nan_at, self.hangs = pause, nan_at, hangs

    def loss(self, batch):
        if self.hangs is not None and self.calls == 5:  # all ranks have met; none is given long to come from now on
            distributed_c10d._set_pg_timeout(timedelta(seconds=1))
            time.sleep(600 if self.hangs else 0)
        time.sleep(self.pause)
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
    fabric = launch(settings)
    nan_at = 5 if fabric.global_rank == choices.nan_rank else None
    hangs = None if choices.hang_rank is None else fabric.global_rank == choices.hang_rank
    model = SlowModel(choices.pause, nan_at, hangs, dropout=choices.dropout, queries=choices.queries)
    loader = toy_loader(workers=choices.workers, rank=fabric.global_rank, world_size=fabric.world_size)
    history = train(model, loader, settings, run_dir=choices.folder, fabric=fabric)
    if fabric.is_global_zero:
        torch.save(model.state_dict(), choices.folder / "weights.pt")
        history.to_csv(choices.folder / "history.csv", index=False)


if __name__ == "__main__":
    main()

"""Twenty steps of a miniature system, to be killed, started again and spread over devices by ``gpu_check.py``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from rows import HERE

sys.path.insert(0, str(HERE.parent))  # tests/ is not installed
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.training import launch, train
from tests.training.toy import ToyPictures, toy_loader
from tests.training.train_toy import toy_settings

STEPS = 20


class Pictures(ToyPictures):
    """The tests' pictures at a size that a decoder can work with."""

    def __getitem__(self, index: int) -> dict:
        """One sample."""
        enlarged = {key: value.repeat_interleave(24, -1).repeat_interleave(24, -2) for key, value in
                    super().__getitem__(index).items() if key != "image_id"}  # fmt: skip
        return enlarged | {"image_id": f"picture_{index}"}


def main() -> None:
    """Train, or go on from the last checkpoint of the folder, and write ``weights.pt`` there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--system", choices=SYSTEMS, default=next(iter(SYSTEMS)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each micro-batch")
    choices = parser.parse_args()
    settings = toy_settings(
        iterations=STEPS, device=choices.device, devices=choices.devices, checkpoint_every=4, learning_rate=1e-4
    )
    fabric = launch(settings)
    torch.manual_seed(0)
    model = SYSTEMS[choices.system].build("miniature")
    step_loss = model.loss

    def loss(batch: dict) -> dict:
        time.sleep(choices.pause)
        return step_loss(batch)

    model.loss = loss
    loader = toy_loader(dataset=Pictures(), rank=fabric.global_rank, world_size=fabric.world_size)
    train(model, loader, settings, run_dir=choices.folder, fabric=fabric)
    if fabric.is_global_zero:
        torch.save(model.state_dict(), choices.folder / "weights.pt")


if __name__ == "__main__":
    main()

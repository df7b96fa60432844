"""A small PartCLIPSeg trained in a process of its own with each of several sets of options, for tests to spread over
several processes."""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ovparts_lib.training import TrainingSettings, launch, train
from tests.systems.partclipseg.test_model import VOCABULARY, batch_of, tiny_partclipseg
from tests.training.toy import ToyLoader, ToySampler

KINDS = ("usual", "no parts", "full", "empty", "speckle", "usual")


def settings(devices):
    return TrainingSettings(
        iterations=3, batch_size=2, learning_rate=1e-3, gradient_clip=0.5, device="cpu", devices=devices, log_every=1
    )


class Pictures(Dataset):
    """Pictures with parts, without parts, and without any object."""

    def __len__(self):
        return len(KINDS)

    def __getitem__(self, index):
        return batch_of((index, KINDS[index]))


def collate(samples):
    together = {key: [sample[key][0] for sample in samples] for key in samples[0] if key != "vocabulary"}
    return together | {"vocabulary": VOCABULARY}


def trained(options, folder, fabric):
    """The weights that training with these options leaves."""
    model = tiny_partclipseg(**options)
    sampler = ToySampler(len(KINDS), rank=fabric.global_rank, world_size=fabric.world_size)
    loader = ToyLoader(Pictures(), 2 // fabric.world_size, sampler=sampler, collate_fn=collate)
    train(model, loader, settings(fabric.world_size), run_dir=folder, fabric=fabric, progress=False)
    return model.state_dict()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("options", nargs="+", type=json.loads)
    choices = parser.parse_args()
    fabric = launch(settings(devices=2))
    for number, options in enumerate(choices.options):
        weights = trained(options, choices.folder / str(number), fabric)
        if fabric.is_global_zero:
            torch.save(weights, choices.folder / f"{number}.pt")


if __name__ == "__main__":
    main()

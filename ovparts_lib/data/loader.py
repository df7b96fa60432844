"""Training batches without end that any run can be resumed in, with any number of workers."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ovparts_lib.data.dataset import Batch, collate_training

# A worker that died, or a disk that does not answer, ends in an error after this many seconds rather than in waiting.
TIMEOUT = 600
SHARED_MEMORY = Path("/dev/shm")  # where workers put what they hand over, on Linux
_PREFETCH = 2  # batches that each worker prepares ahead
_ORDER, _TRANSFORM = 0, 1  # what a derived seed is for


class Draw(NamedTuple):
    """One place among the endless samples: which sample is served there."""

    index: int
    position: int


class ResumableSampler(Sampler[Draw]):
    """Concatenated random permutations of a dataset without end; rank r takes every ``world_size``-th place from r.

    Place p holds element p mod length of permutation p div length, and each permutation is drawn from (seed, its
    number), so iteration can begin anywhere. Iterating does not move ``position``, the number of samples that all
    ranks together have seen: whoever consumes them counts, so that what workers have fetched ahead is not seen.

    Args:
        length: number of samples, at least 1.
        seed: the same on all ranks, at least 0.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.position = 0

    def __iter__(self) -> Iterator[Draw]:
        epoch, order = -1, torch.empty(0)
        position = self.position + self.rank
        while True:
            if position // self.length != epoch:
                epoch = position // self.length
                generator = torch.Generator().manual_seed(derived_seed(self.seed, _ORDER, epoch))
                order = torch.randperm(self.length, generator=generator)
            yield Draw(int(order[position % self.length]), position)
            position += self.world_size

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint has to hold."""
        return {"position": self.position, "length": self.length, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a recorded place.

        Raises:
            ValueError: the place was recorded with another number of samples or another seed.
        """
        for what in ("length", "seed"):
            if state[what] != getattr(self, what):
                seen = f"the checkpoint's sampler has {what} {state[what]}, this run {getattr(self, what)}"
                raise ValueError(f"{seen}: resume with the dataset and seed that the run was started with")
        self.position = int(state["position"])


class TrainingLoader(DataLoader):
    """A ``DataLoader`` without end that knows how many samples have been handed out.

    Made by :func:`training_loader`. A new iteration continues at ``sampler.position``.
    """

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.sampler.position += len(batch["images"]) * self.sampler.world_size
            # Workers send copies; the dataset's own vocabulary keeps what is cached by identity.
            batch["vocabulary"] = self.dataset.dataset.vocabulary
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Place among the samples after the batch handed out last; independent of what workers have prepared ahead."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the recorded place, from the next ``iter()`` on."""
        self.sampler.load_state_dict(state)


class SeededDataset(Dataset):
    """Makes the random choices of a dataset's transforms a function of (seed, place among the samples).

    Torch's generator is seeded for the sample and put back afterwards, so a loader without workers leaves the random
    numbers of the training process alone. Transforms must draw from torch, as torchvision's do.

    Args:
        dataset: a map-style dataset with random transforms.
        seed: at least 0.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(self.seed, _TRANSFORM, draw.position))
            return self.dataset[draw.index]


def training_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> TrainingLoader:
    """Endless batches of a :class:`~ovparts_lib.data.dataset.TrainingDataset`.

    The order of samples and every augmentation depend on the seed and the place alone: not on workers,
    not on where a run was interrupted, and not on how many processes share a batch.

    Args:
        dataset: what to train on.
        batch_size: samples per step over all processes, as published settings state it.
        workers: processes that prepare batches; 0 prepares them in this one.
        seed: the same on all ranks.
        rank: of this process.
        world_size: number of processes that train together.
        pin_memory: keep batches in page-locked memory, for copies to a CUDA device.

    Raises:
        ValueError: ``batch_size`` is not a positive multiple of ``world_size``.
    """
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} must be a positive multiple of the {world_size} processes")
    seeded = SeededDataset(dataset, seed)
    return TrainingLoader(
        seeded,
        batch_size=batch_size // world_size,
        sampler=ResumableSampler(len(dataset), seed, rank=rank, world_size=world_size),
        collate_fn=collate_training,
        pin_memory=pin_memory,
        # What seeds the workers; without one of its own, starting or resuming a loader would draw from the caller's.
        generator=torch.Generator(),
        **worker_options(workers, lambda: seeded[Draw(0, 0)], batch_size // world_size),
    )


def worker_options(workers: int, sample: Callable[[], Any], batch_size: int = 1) -> dict[str, Any]:
    """What a ``DataLoader`` is told about its workers.

    Args:
        workers: how many.
        sample: makes one of the samples that the workers will hand over, to see how large they are.
        batch_size: samples in a batch.

    Raises:
        RuntimeError: what the workers keep ready does not fit into the shared memory that is free, where they would
            die without a word (containers often have 64 MB).
    """
    if workers == 0:
        return {"num_workers": 0}
    if SHARED_MEMORY.is_dir():
        # Each worker keeps its share ready, and one batch more is in use.
        needed = tensor_bytes(sample()) * batch_size * (workers * _PREFETCH + 1)
        free = shutil.disk_usage(SHARED_MEMORY).free
        if needed > free:
            raise RuntimeError(
                f"{workers} workers keep about {needed / 1e6:,.0f} MB of samples in shared memory, but {SHARED_MEMORY} "
                f"has {free / 1e6:,.0f} MB free: set workers: 0 (or fewer), or give more (docker run "
                f"--shm-size={math.ceil(2 * needed / 1e9)}g)"
            )
    return {"num_workers": workers, "timeout": TIMEOUT, "prefetch_factor": _PREFETCH}


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a structure of mappings, sequences and dataclasses."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(tensor_bytes, value))


def derived_seed(seed: int, purpose: int, number: int) -> int:
    """A 63-bit seed that is a function of its arguments, without the collisions of adding them up."""
    return int(np.random.SeedSequence((seed, purpose, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))

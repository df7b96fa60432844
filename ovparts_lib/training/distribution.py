"""Start the processes of a run, and let them agree."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from ovparts_lib.training.settings import TrainingSettings

T = TypeVar("T")
# Rank 0 evaluates while the others wait; torch's 10 (NCCL) or 30 minutes would end a run during a long evaluation.
_PATIENCE = timedelta(hours=3)


def launch(settings: TrainingSettings) -> Fabric:
    """Start Lightning Fabric for these settings; with several devices, every process returns from here.

    The script that calls this is run again for each further device of the node (or by SLURM, once a task).

    Raises:
        ValueError: CUDA is asked for and there is none, float16 on the CPU, or several devices from inside a notebook.
    """
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise ValueError("training setting device is 'cuda', but torch finds no CUDA device; use 'cpu' or 'auto'")
    accelerator = "cuda" if cuda and settings.device != "cpu" else "cpu"
    if settings.precision == "16-mixed" and accelerator == "cpu":
        raise ValueError("training setting precision is '16-mixed', which needs CUDA; use 'bf16-mixed' or '32-true'")
    if settings.processes == 1:
        # One process needs no cluster: without the plugin, Fabric looks for SLURM and warns or objects inside a job.
        alone = LightningEnvironment()
        fabric = Fabric(accelerator=accelerator, devices=1, precision=settings.precision, plugins=alone)
    else:
        if "ipykernel" in sys.modules:
            raise ValueError(
                f"a notebook trains on one device; for {settings.processes}, run python -m ovparts_lib.training"
            )
        backend = "nccl" if accelerator == "cuda" else "gloo"
        strategy = DDPStrategy(process_group_backend=backend, timeout=_PATIENCE)
        fabric = Fabric(
            accelerator=accelerator,
            strategy=strategy,
            devices=settings.devices,
            num_nodes=settings.nodes,
            precision=settings.precision,
        )
    fabric.launch()
    if settings.processes > 1:
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    # Fabric does this for NCCL only; gloo's threads, left running, now and then abort a process that is done.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class LossModule(nn.Module):
    """A model whose forward is its loss: what Fabric wraps, so that DDP and autocast see every call.

    The batch travels in a :class:`Sealed` box: Fabric and DDP would otherwise take it apart to cast and move what is
    inside, and cannot rebuild a frozen Vocabulary.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Sealed) -> dict[str, Tensor]:
        """The model's loss terms, scalars by name."""
        return self.model.loss(batch.content)


class Sealed:
    """A box that nobody looks into on the way."""

    def __init__(self, content: Any) -> None:
        self.content = content


def move_batch(value: Any, device: torch.device) -> Any:
    """A batch of dicts and lists with its tensors on the device; anything else is passed on as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: move_batch(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(move_batch(item, device) for item in value)
    return value


def mean_over_ranks(fabric: Fabric, values: Sequence[Tensor | float]) -> list[float]:
    """Mean of each value over the ranks, as Python numbers: the one synchronisation of a step. NaN stays NaN."""
    stacked = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=fabric.device) for value in values])
    return fabric.all_reduce(stacked, reduce_op="mean").tolist()


def gather_from_ranks(value: Any) -> list[Any]:
    """The value of every rank, in order of rank; a list of one where nothing is distributed."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def on_rank_zero(fabric: Fabric, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call something on rank 0 alone (write a checkpoint, evaluate) while the others wait; every rank gets its result.

    What it raises on rank 0 ends the other ranks too, which would otherwise wait for ever.
    """
    result: T | None = None
    error: Exception | None = None
    if fabric.is_global_zero:
        try:
            result = work(*args, **kwargs)
        except Exception as caught:
            error = caught
    result, failure = fabric.broadcast((result, None if error is None else repr(error)))
    if error is not None:
        raise error
    if failure is not None:
        raise RuntimeError(f"rank 0 failed: {failure}")
    return result

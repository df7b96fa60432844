"""Start the processes of a run, and let them agree."""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from ovparts_lib.processes import end_with_parent
from ovparts_lib.training.settings import TrainingSettings

T = TypeVar("T")
_LOST = re.compile("timed? ?out|connection (closed|reset)|watchdog", re.IGNORECASE)
# In a step, ranks wait for each other; one that stands still this long has died or is stuck.
_STEP_PATIENCE = timedelta(minutes=15)
# Rank 0 evaluates and writes while the others wait.
_RANK_ZERO_PATIENCE = timedelta(hours=3)
_WAITING: list[torch.distributed.ProcessGroup] = []


class RankLostError(RuntimeError):
    """Another process of a training does not answer any more."""


def launch(settings: TrainingSettings) -> Fabric:
    """Start Lightning Fabric for these settings; with several devices, every process returns from here.

    The script that calls this is run again for each further device.

    Raises:
        ValueError: CUDA is asked for and there is none (or none of this index), float16 on the CPU, or several devices
            from inside a notebook.
    """
    accelerator = _accelerator(settings)
    # Fabric starts the processes itself. Left to look around, it takes a SLURM job of one task (which is how runs are
    # submitted) for one that starts them, and objects that there are too few.
    here = LightningEnvironment()
    devices, strategy = settings.devices, "auto"
    if devices == 1 and settings.device_index is not None:
        devices = [settings.device_index]
    elif devices > 1:
        if "ipykernel" in sys.modules:
            raise ValueError(
                f"training on {settings.devices} devices cannot start inside a notebook's own process; set devices: "
                f"{settings.devices} in the parameters and the notebook starts the processes (which is "
                "python -m ovparts_lib.workbook.distributed <params.yaml>)"
            )
        if os.environ.get("LOCAL_RANK", "0") != "0":  # started by Fabric in rank 0
            end_with_parent()
        backend = "nccl" if accelerator == "cuda" else "gloo"
        strategy = DDPStrategy(process_group_backend=backend, timeout=_STEP_PATIENCE)
    precision = settings.precision
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, precision=precision, plugins=here)
    fabric.launch()
    if settings.devices > 1:
        atexit.register(_leave_group)
        if torch.distributed.is_initialized():
            _WAITING[:] = [torch.distributed.new_group(backend="gloo", timeout=_RANK_ZERO_PATIENCE)]
    return fabric


def _accelerator(settings: TrainingSettings) -> str:
    """``"cuda"`` or ``"cpu"``; ValueError where this machine has not what the settings ask for."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = f"training setting device is {settings.device!r}, but torch finds"
    if settings.device.startswith("cuda") and not found:
        raise ValueError(f"{asked} no CUDA device; use 'cpu' or 'auto'")
    if settings.device_index is not None and settings.device_index >= found:
        raise ValueError(f"{asked} {found} CUDA devices, the last of them 'cuda:{found - 1}'")
    accelerator = "cuda" if found and settings.device != "cpu" else "cpu"
    if settings.precision == "16-mixed" and accelerator == "cpu":
        raise ValueError("training setting precision is '16-mixed', which needs CUDA; use 'bf16-mixed' or '32-true'")
    return accelerator


def _leave_group() -> None:
    # Fabric does this for NCCL only; gloo's threads, left running, now and then abort a process that is done.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class LossModule(nn.Module):
    """A model whose forward is its loss: what Fabric wraps, so that DDP and autocast see every call.

    The batch travels as an :class:`OpaqueBatch`, for Fabric and DDP cannot rebuild a frozen Vocabulary.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: OpaqueBatch) -> dict[str, Tensor]:
        """The model's loss terms, scalars by name."""
        return self.model.loss(batch.content)


class OpaqueBatch:
    """Keeps Fabric and DDP from moving or casting the contents."""

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


@contextmanager
def within_patience(fabric: Fabric) -> Iterator[None]:
    """Say in words that another rank has not answered, where torch names a socket and milliseconds.

    Raises:
        RankLostError: another rank has ended, or has stood still for a quarter of an hour.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not _LOST.search(str(error)):
            raise
        raise RankLostError(
            f"rank {fabric.global_rank} waits for another rank that has ended or has stood still for "
            f"{_STEP_PATIENCE}: see what it printed above. Run it again to go on from the last checkpoint"
        ) from error


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
    outcome = [(result, None if error is None else repr(error))]
    if fabric.world_size > 1:
        torch.distributed.broadcast_object_list(outcome, src=0, group=_WAITING[0])
    result, failure = outcome[0]
    if error is not None:
        raise error
    if failure is not None:
        raise RuntimeError(f"rank 0 failed: {failure}")
    return result

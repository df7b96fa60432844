"""When a loss or a gradient is not a number: stop, and keep what is needed to find out why."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteLossError(RuntimeError):
    """A loss term or the gradient norm was NaN or infinite; the weights were not updated."""


def non_finite_loss(
    values: dict[str, float], model: nn.Module, folder: Path, found: dict[str, Any]
) -> NonFiniteLossError:
    """Save what is needed to look at a step that went wrong, and make the error that says so.

    ``folder/step_00000123_rank0.pt``, to be read with ``torch.load(path, weights_only=True)``, holds ``batches`` (the
    micro-batches of the step as plain data), ``losses`` (this rank's terms for each), ``model`` (the full state dict)
    and ``random`` (``randomness.set_random_state`` puts it back), with which the step can be computed again.

    Args:
        values: loss terms (means over micro-batches and ranks) and gradient norm, at least one of them not finite.
        model: with the weights the losses were computed with.
        folder: where to save; created if need be.
        found: ``step``, the number of the update that is not made, counted from 1; ``rank``, this process; its
            ``batches`` and ``losses``; and ``random``, the generators' state before the step.
    """
    wrong = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
    message = f"training stopped before update {found['step']}: {wrong}"
    path = folder / f"step_{found['step']:08d}_rank{found['rank']}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({**as_plain_data(found), "model": model.state_dict()}, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        return NonFiniteLossError(f"{message}; its batches could not be saved to {path}: {error}")
    remedy = "lower learning_rate, look for a bad label, or use precision 32-true if it is not"
    return NonFiniteLossError(f"{message}. Its batches, weights and random state are in {path}; {remedy}")


def as_plain_data(value: Any) -> Any:
    """A copy of nested data that ``torch.load`` can read without running code: a vocabulary becomes a dict, say."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: as_plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain_data(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)

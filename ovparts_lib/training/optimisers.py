"""AdamW over the parameter groups a model asks for."""

import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

from ovparts_lib.training.schedules import learning_rate_factor
from ovparts_lib.training.settings import TrainingSettings


class ParameterGroupError(ValueError):
    """The parameter groups of a model do not hold each trainable parameter exactly once."""


def build_optimiser(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW (betas 0.9 and 0.999, eps 1e-8) over ``model.parameter_groups(settings.weight_decay)``.

    A group is a dict with ``params`` and ``weight_decay``, and may hold ``lr_multiplier`` (a backbone at a hundredth of
    the base rate, say). Each group's base rate is kept as ``initial_lr``.

    Raises:
        ParameterGroupError: nothing trains, a trainable parameter is in no group or in two, or a frozen one is in one.
    """
    groups = [_with_base_rate(group, settings.learning_rate) for group in model.parameter_groups(settings.weight_decay)]
    groups = [group for group in groups if group["params"]]
    _check_groups(model, groups)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8)


def set_learning_rate(optimiser: torch.optim.Optimizer, settings: TrainingSettings, step: int) -> float:
    """Give every group its scheduled rate for one step; returns the rate of a group without a multiplier."""
    factor = learning_rate_factor(
        step, settings.iterations, schedule=settings.schedule, power=settings.power, warmup=settings.warmup
    )
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return settings.learning_rate * factor


def describe_groups(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Names, base learning rate and weight decay of each group, as plain data that two runs can be compared by."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {
            "names": [names[id(parameter)] for parameter in group["params"]],
            "learning_rate": group["initial_lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in optimiser.param_groups
    ]


def check_gradients(model: nn.Module, *, distributed: bool) -> None:
    """After the first backward pass: every trainable parameter should have received a gradient.

    Raises:
        ParameterGroupError: one has not, and the processes of a distributed run would wait for it.

    Warns:
        UserWarning: one has not, on a single device, where it just stays as it is.
    """
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if not idle:
        return
    message = f"{len(idle)} trainable parameters have no part in the loss: {', '.join(idle[:5])}"
    if distributed:
        raise ParameterGroupError(f"{message}; freeze them, several devices cannot train a model with such parameters")
    warnings.warn(message, stacklevel=2)


def _with_base_rate(group: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    own = {key: value for key, value in group.items() if key != "lr_multiplier"}
    rate = learning_rate * group.get("lr_multiplier", 1.0)
    return {**own, "params": list(group["params"]), "lr": rate, "initial_lr": rate}


def _check_groups(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trainable = Counter(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    if not trainable:
        raise ParameterGroupError("no parameter of the model is trainable; choose parts to train with set_trainable")
    grouped = Counter(names.get(id(each), "a tensor that is not the model's") for g in groups for each in g["params"])
    wrong = sorted((trainable - grouped) + (grouped - trainable))
    if wrong:
        raise ParameterGroupError(
            f"parameter_groups of {type(model).__name__} must hold each trainable parameter once, and nothing else; "
            f"not so: {', '.join(wrong[:5])} ({len(wrong)})"
        )

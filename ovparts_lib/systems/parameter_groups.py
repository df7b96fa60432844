"""What of a system trains, and how: named groups of parameters, weight decay, and factors of the learning rate."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

Groups = Mapping[str, tuple[str, ...]]  # beginnings of parameter names by group
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)


def known_group(groups: Groups, group: str) -> tuple[str, ...]:
    """The beginnings of a group's parameter names.

    Raises:
        ValueError: no such group; the message names the nearest one.
    """
    if group not in groups:
        near = get_close_matches(group, groups, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(groups)}"
        raise ValueError(f"no trainable group {group!r}; {hint}")
    return groups[group]


def train_only(model: nn.Module, groups: Groups, chosen: Collection[str], frozen: Sequence[str] = ()) -> list[str]:
    """Let the chosen groups train and freeze everything else.

    Args:
        model: whose parameters.
        groups: of the system.
        chosen: names of groups.
        frozen: beginnings of parameter names that never train.

    Returns:
        Names of the parameters that train.

    Raises:
        ValueError: no such group.
    """
    beginnings = tuple(beginning for group in chosen for beginning in known_group(groups, group))
    names = []
    for name, parameter in model.named_parameters():
        trains = bool(beginnings) and name.startswith(beginnings) and not name.startswith(tuple(frozen))
        parameter.requires_grad_(trains)
        names += [name] if trains else []
    return names


def parameter_groups(
    model: nn.Module,
    groups: Groups,
    weight_decay: float,
    lr_multipliers: Mapping[str, float],
    undecayed: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """What trains, for the optimiser: norms and embedding tables without weight decay, all else, biases too, with.

    Args:
        model: whose parameters.
        groups: of the system.
        weight_decay: of what decays.
        lr_multipliers: by group; a parameter of several groups has that of the first.
        undecayed: endings of the names of other parameters that do not decay.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if id(parameter) in norms or name.endswith(undecayed) else weight_decay
            factors = (factor for group, factor in lr_multipliers.items() if name.startswith(groups[group]))
            found.setdefault((next(factors, 1.0), decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_multiplier": multiplier}
        for (multiplier, decay), parameters in found.items()
    ]

"""What of a model trains: named groups of its parameters."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from torch import nn

Groups = Mapping[str, tuple[str, ...]]  # beginnings of parameter names by group


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

"""Which of a vocabulary's parts a step trains on, or a prediction gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovparts_lib.vocabularies.vocabulary import Vocabulary


def chosen_queries(targets: Tensor, count: int, wanted: int) -> Tensor:
    """Channels to decode, ascending: the parts in ``targets``, random others up to ``wanted``, and the background.

    Processes that train together choose together, from the targets of all of them, so that a batch spread over devices
    gives the loss that it has on one.

    Args:
        targets: channels 0..count, any shape; ``count`` is the background.
        count: number of parts.
        wanted: number of parts to choose, if no more occur.

    Returns:
        int64 (m + 1,), the last one ``count``.
    """
    present = torch.zeros(count + 1, dtype=torch.bool, device=targets.device)
    present[targets.unique()] = True
    draws = torch.rand(count).to(targets.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        anywhere = present.int()
        torch.distributed.all_reduce(anywhere, torch.distributed.ReduceOp.MAX)
        torch.distributed.broadcast(draws, 0)
        present = anywhere.bool()
    # Parts that occur come first, the rest in random order.
    order = torch.argsort(draws - present[:count].float())
    kept = order[: max(wanted, int(present[:count].sum()))]
    return torch.cat([kept.sort().values, torch.tensor([count], device=targets.device)])


def checked_part_ids(part_ids: Sequence[int] | None, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The parts to score, all of them for None.

    Raises:
        ValueError: none, one twice, or one that does not exist.
    """
    count = len(vocabulary.parts)
    wanted = tuple(range(count)) if part_ids is None else tuple(int(part) for part in part_ids)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(count)):
        raise ValueError(
            f"part_ids must be different numbers from 0 to {count - 1}, the parts of {vocabulary.name!r}, and at least "
            f"one; got {list(wanted)}"
        )
    return wanted

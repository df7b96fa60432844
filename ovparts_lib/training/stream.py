"""The endless stream of batches, and the place in it that training has reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from ovparts_lib.training.settings import TrainingSettings


class BatchStream:
    """Counts the batches that training has consumed; those that loader workers have fetched ahead do not count.

    Args:
        loader: a DataLoader whose sampler is endless and has ``state_dict()`` and ``load_state_dict()`` with a
            ``"position"``, the number of samples this rank has drawn.
        settings: must agree with the loader on the batch size.
        rank: this process.
        world_size: all processes; a sampler with ``rank`` and ``world_size`` must have been made for these.

    Raises:
        ValueError: the loader is not such a one; the message says in what.
    """

    def __init__(self, loader: DataLoader, settings: TrainingSettings, *, rank: int, world_size: int) -> None:
        sampler = loader.sampler
        if loader.batch_size != settings.batch_size:
            raise ValueError(
                f"the loader's batch_size is {loader.batch_size}, but the training settings say {settings.batch_size}"
            )
        if not (hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")):
            raise ValueError(
                f"the loader's sampler, {type(sampler).__name__}, cannot save its position; use training_loader"
            )
        made_for = getattr(sampler, "rank", 0), getattr(sampler, "world_size", 1)
        if made_for != (rank, world_size):
            raise ValueError(
                f"the loader's sampler draws the share of rank {made_for[0]} of {made_for[1]}, but this process is "
                f"rank {rank} of {world_size}; call launch(settings) first and build the loader for its rank"
            )
        self._loader = loader
        self._start = sampler.state_dict()
        self.consumed = 0
        self._batches: Iterator[Any] | None = None

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where :meth:`state` was taken; before the first batch."""
        self._loader.sampler.load_state_dict(state)
        self._start = self._loader.sampler.state_dict()

    def open(self) -> None:
        """Start the loader's workers. This draws from torch's generator."""
        self._batches = iter(self._loader)

    def state(self) -> dict[str, Any]:
        """The sampler's state as if it had drawn exactly what training consumed."""
        return {**self._start, "position": self._start["position"] + self.consumed * self._loader.batch_size}

    def take(self) -> Any:
        """The next batch.

        Raises:
            RuntimeError: the stream ended; training needs an endless sampler.
        """
        try:
            batch = next(self._batches)
        except StopIteration:
            raise RuntimeError(
                f"the loader ended after {self.consumed} batches; training needs an endless sampler"
            ) from None
        self.consumed += 1
        return batch

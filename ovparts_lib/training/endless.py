"""Batches without end, and the place among them that training has reached."""

import errno
import resource
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from ovparts_lib.training.randomness import isolated_generators
from ovparts_lib.training.settings import TrainingSettings
from ovparts_lib.training.state import ResumeError


class EndlessBatches:
    """Takes batches from a loader and knows the place after the last one taken, whatever workers have fetched ahead.

    Args:
        loader: an endless loader whose ``state_dict()`` is the place after the batch handed out last and whose
            ``load_state_dict()`` goes there, as ``data.loader.training_loader`` makes; its random choices must depend
            on the place alone.
        settings: must agree with the loader on the batch size.
        rank: this process.
        world_size: all processes; a sampler with ``rank`` and ``world_size`` must have been made for these.

    Raises:
        ValueError: the loader is not such a one; the message says in what.
    """

    def __init__(self, loader: DataLoader, settings: TrainingSettings, *, rank: int, world_size: int) -> None:
        if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")):
            raise ValueError(f"a {type(loader).__name__} cannot resume among its samples; use training_loader")
        made_for = getattr(loader.sampler, "rank", 0), getattr(loader.sampler, "world_size", 1)
        if made_for != (rank, world_size):
            raise ValueError(
                f"the loader's sampler draws the share of rank {made_for[0]} of {made_for[1]}, but this process is "
                f"rank {rank} of {world_size}; call launch(settings) first and build the loader for its rank"
            )
        if loader.batch_size * world_size != settings.batch_size:
            raise ValueError(
                f"the loader makes batches of {loader.batch_size} on each of {world_size} devices, but the training "
                f"setting batch_size, all devices together, is {settings.batch_size}"
            )
        self._loader = loader
        self._batches: Iterator[Any] | None = None
        self.taken = 0

    def restore(self, state: dict[str, Any], *, source: str) -> None:
        """Go to where :meth:`state` was taken, before the first batch; ``source`` is the file the state comes from.

        Raises:
            ResumeError: the loader says that the place belongs to other data.
        """
        try:
            self._loader.load_state_dict(state)
        except ValueError as error:
            raise ResumeError(f"cannot resume from {source}: {error}") from error

    def state(self) -> dict[str, Any]:
        """The place after the last batch taken."""
        return dict(self._loader.state_dict())

    def take(self) -> Any:
        """The next batch.

        Raises:
            RuntimeError: the batches ended, or too few files may be open.
        """
        try:
            batch = self._first() if self._batches is None else next(self._batches)
        except (RuntimeError, OSError) as error:
            if "ancdata" not in str(error) and getattr(error, "errno", None) != errno.EMFILE:
                raise
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            raise RuntimeError(
                f"too few files may be open ({limit}) for what the loader's workers hand over; allow more (ulimit -n), "
                "or set workers lower"
            ) from error
        except StopIteration:
            raise RuntimeError(f"the loader ended after {self.taken} batches; training needs an endless one") from None
        self.taken += 1
        return batch

    def close(self) -> None:
        """Let the loader's workers go, also when an error's traceback keeps this object alive."""
        self._batches = None

    def _first(self) -> Any:
        with isolated_generators():  # a loader draws a seed for its workers when it starts, also after a resume
            self._batches = iter(self._loader)
            return next(self._batches)

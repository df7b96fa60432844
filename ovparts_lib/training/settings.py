"""What a training run needs to know beyond its model and its data."""

from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from ovparts_lib.options import Device, Number

# Settings that only say how a run is watched or where it runs: they may change between a stop and a resume.
FREE_TO_CHANGE = frozenset({"log_every", "evaluate_every", "checkpoint_every", "device"})


@dataclass(frozen=True)
class TrainingSettings:
    """Optimisation, precision and pace of a run; the defaults are CLIPSeg's on Pascal-Part-116 with one device.

    One *step* is one update of the weights; it sees ``batch_size × accumulate`` images.

    Attributes:
        iterations: number of steps T.
        batch_size: images of one micro-batch, over all devices together, as published settings state it.
        accumulate: micro-batches per step; the step follows the mean of their losses.
        learning_rate: base learning rate of AdamW; a parameter group may ask for a multiple of it.
        weight_decay: decoupled weight decay handed to ``model.parameter_groups``.
        gradient_clip: largest global L2 norm of the gradient; None leaves gradients as they are.
        schedule: name of the learning-rate schedule, see ``schedules.learning_rate_factor``.
        power: exponent of the poly schedule.
        warmup: steps of linear warm-up; 0 for none.
        precision: ``"32-true"``, ``"bf16-mixed"`` or, on CUDA, ``"16-mixed"`` (with loss scaling).
        log_every: steps between lines of the log; the first and last step are always logged.
        evaluate_every: steps between evaluations; 0 for none.
        checkpoint_every: steps between checkpoints; 0 for one at the end (and when interrupted) only.
        seed: seed of Python's, numpy's and torch's generators; rank r uses ``seed + r``.
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"``, or one by index: ``"cuda:1"``.
        devices: processes (ranks) that train together, one device each.

    Raises:
        ValueError: a value outside its range; the message names the setting.
    """

    iterations: PositiveInt = 20_000
    batch_size: PositiveInt = 8
    accumulate: PositiveInt = 1
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-4
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-4
    gradient_clip: Annotated[Number, Field(gt=0)] | None = 0.01
    schedule: Literal["poly", "cosine"] = "poly"
    power: Annotated[Number, Field(ge=0)] = 0.9
    warmup: NonNegativeInt = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    log_every: PositiveInt = 50
    evaluate_every: NonNegativeInt = 0
    checkpoint_every: NonNegativeInt = 1_000
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: Device = "auto"
    devices: PositiveInt = 1

    @property
    def device_index(self) -> int | None:
        """1 for ``"cuda:1"``; None where the device has no index."""
        _, colon, index = self.device.partition(":")
        return int(index) if colon else None

    def trajectory(self) -> dict[str, int | float | str | None]:
        """The settings that decide which weights come out: those that must not change when a run is resumed."""
        return {name: value for name, value in asdict(self).items() if name not in FREE_TO_CHANGE}

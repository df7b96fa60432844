"""What a training run needs to know beyond its model and its data."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass

from ovparts_lib.training.schedules import SCHEDULES

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_DEVICE = re.compile(r"(auto|cpu|cuda)(?::(\d+))?")
# Settings that only say how a run is watched or where it runs: they may change between a stop and a resume.
FREE_TO_CHANGE = frozenset({"log_every", "evaluate_every", "checkpoint_every", "device", "deterministic"})


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
        schedule: name of the learning-rate schedule, one of ``schedules.SCHEDULES``.
        power: exponent of the poly schedule.
        warmup: steps of linear warm-up; 0 for none.
        precision: ``"32-true"``, ``"bf16-mixed"`` or, on CUDA, ``"16-mixed"`` (with loss scaling).
        log_every: steps between lines of the log; the first and last step are always logged.
        evaluate_every: steps between evaluations; 0 for none.
        checkpoint_every: steps between checkpoints; 0 for one at the end (and when interrupted) only.
        seed: seed of Python's, numpy's and torch's generators; rank r uses ``seed + r``.
        deterministic: make torch use deterministic kernels only; an operation that has none is an error naming it.
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"``, or one by index: ``"cuda:1"``.
        devices: processes per node, one device each.
        nodes: number of nodes.

    Raises:
        ValueError: a value outside its range; the message names the setting.
    """

    iterations: int = 20_000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    gradient_clip: float | None = 0.01
    schedule: str = "poly"
    power: float = 0.9
    warmup: int = 0
    precision: str = "32-true"
    log_every: int = 20
    evaluate_every: int = 0
    checkpoint_every: int = 1_000
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "accumulate", "log_every", "devices", "nodes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "evaluate_every", "checkpoint_every", "seed", "weight_decay", "power"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        self._require("learning_rate", 0 < self.learning_rate < math.inf, "positive and finite")
        self._require(
            "gradient_clip", self.gradient_clip is None or self.gradient_clip > 0, "positive, or None for off"
        )
        self._require("warmup", self.warmup < self.iterations, f"below iterations ({self.iterations})")
        divisible = self.batch_size % self.processes == 0
        self._require("batch_size", divisible, f"a multiple of the number of devices ({self.processes})")
        self._require("seed", self.seed < 2**32 - self.processes, "below 2^32 less the number of devices")
        for name, choices in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        device = _DEVICE.fullmatch(self.device)
        known = device is not None and (device[2] is None or device[1] == "cuda")
        self._require("device", known, "auto, cpu, cuda or cuda:N")
        one = self.processes == 1 or self.device_index is None
        self._require("device", one, f"without an index to train on {self.processes} devices")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"training setting {name} is {getattr(self, name)!r}; it must be {what}")

    @property
    def device_index(self) -> int | None:
        """1 for ``"cuda:1"``; None where the device has no index."""
        _, colon, index = self.device.partition(":")
        return int(index) if colon else None

    @property
    def processes(self) -> int:
        """Number of processes (ranks) that train together."""
        return self.devices * self.nodes

    def trajectory(self) -> dict[str, int | float | str | None]:
        """The settings that decide which weights come out: those that must not change when a run is resumed."""
        return {name: value for name, value in asdict(self).items() if name not in FREE_TO_CHANGE}

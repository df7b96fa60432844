"""Arithmetic that a GPU can be asked for, and what a card reaches in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Owners of the flag, its name, and its values without and with TF32. Where torch has the newer flag (since 2.9), the
# older is left alone: reading it after the newer was set is an error.
if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    _TF32 = (torch.backends.cuda.matmul, torch.backends.cudnn.conv), "fp32_precision", ("ieee", "tf32")
else:
    _TF32 = (torch.backends.cuda.matmul, torch.backends.cudnn), "allow_tf32", (False, True)


def precisions(device: torch.device) -> tuple[str, ...]:
    """What to compare on a device; TF32 exists on CUDA alone."""
    return ("fp32", "tf32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16", "fp16")


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """``fp32`` without TF32, ``tf32`` in products and convolutions, ``bf16`` and ``fp16`` by autocast."""
    owners, name, (no, yes) = _TF32
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, yes if precision == "tf32" else no)
        with torch.autocast(device.type, AUTOCAST.get(precision, torch.bfloat16), enabled=precision in AUTOCAST):
            yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            setattr(owner, name, value)


def peak_gflops(precision: str, device: torch.device, side: int | None = None, repeats: int = 5) -> float:
    """GFLOP/s of a large matrix product: what the card reaches in this arithmetic, which no table need say."""
    side = side or (8192 if device.type == "cuda" else 512)
    left, right = torch.randn(2, side, side, device=device, dtype=AUTOCAST.get(precision, torch.float32))
    seconds = []
    with arithmetic("tf32" if precision == "tf32" else "fp32", device):
        for _ in range(repeats + 1):
            synchronise(device)
            begin = time.perf_counter()
            left @ right
            synchronise(device)
            seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e9


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def without_dropout(model: nn.Module) -> nn.Module:
    """The model with all rates of dropout at zero, for devices draw differently."""
    for module in model.modules():
        for name in ("p", "drop_prob", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model

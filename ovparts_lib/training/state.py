"""What a training run must remember to go on as if it had never stopped."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ovparts_lib.training.distribution import gather_from_ranks
from ovparts_lib.training.optimisers import describe_groups
from ovparts_lib.training.randomness import random_state
from ovparts_lib.training.settings import TrainingSettings

FORMAT = 1


class ResumeError(ValueError):
    """The run cannot go on from its checkpoint, as model, settings or data are not those it was written with."""


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters and persistent buffers of a model: everything training may change."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 of the frozen parameters: checkpoints hold it instead (of 0.6 GB of CLIP where 0.1 GB trains)."""
    return tensor_digest({name: p for name, p in model.named_parameters() if not p.requires_grad})


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(memoryview(values.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def capture_state(
    fabric: Fabric,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    settings: TrainingSettings,
    place: dict[str, Any],
    **facts: Any,
) -> dict[str, Any]:
    """Everything a checkpoint holds, ``step``, ``seconds`` and the digest of what is ``frozen`` as ``facts``.

    Called by all ranks, as each adds its generators' state and its place in the data.
    """
    return {
        "format": FORMAT,
        **facts,
        "settings": settings.trajectory(),
        "groups": describe_groups(model, optimiser),
        "model": trained_tensors(model),
        "optimiser": optimiser.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),
        "ranks": gather_from_ranks({"random": random_state(), "loader": place}),
    }


def check_state(
    saved: dict[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    settings: TrainingSettings,
    frozen: str,
    *,
    source: str,
) -> None:
    """Compare a checkpoint with the run that wants to go on from it.

    Raises:
        ResumeError: naming every setting that differs, or the parameters that do.
    """
    remedy = "; resume with what the run began with, give the run another name, or start over with --again"
    if saved.get("format") != FORMAT:
        raise ResumeError(f"{source} has checkpoint format {saved.get('format')!r}, this code writes {FORMAT}{remedy}")
    problems = [
        f"{name} is {now!r} now and was {saved['settings'].get(name)!r}"
        for name, now in settings.trajectory().items()
        if now != saved["settings"].get(name)
    ]
    problems = problems or _differing_tensors(saved["model"], trained_tensors(model))
    problems = problems or _differing_groups(saved["groups"], describe_groups(model, optimiser))
    if not problems and frozen != saved["frozen"]:
        problems = ["the frozen weights are not those the run began with (another initial checkpoint?)"]
    if problems:
        raise ResumeError(f"cannot resume from {source}: {'; '.join(problems)}{remedy}")


def _differing_groups(saved: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    if len(saved) != len(now):
        return [f"the optimiser has {len(now)} parameter groups now and had {len(saved)}"]
    return [
        f"{key} of parameter group {index} is {new[key]!r:.200} now and was {old[key]!r:.200}"
        for index, (old, new) in enumerate(zip(saved, now, strict=True))
        for key in old
        if old[key] != new[key]
    ]


def restore_state(
    saved: dict[str, Any], fabric: Fabric, model: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put weights, optimiser and loss scale back, after :func:`check_state`.

    Returns:
        This rank's ``{"random": …, "loader": …}``, for the caller to put back.
    """
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in saved["model"].items():
            own[name].copy_(tensor)
    optimiser.load_state_dict(saved["optimiser"])
    fabric.strategy.precision.load_state_dict(saved["precision"])
    return saved["ranks"][fabric.global_rank]


def _differing_tensors(saved: dict[str, Tensor], now: dict[str, Tensor]) -> list[str]:
    kinds = {
        "not trained now but in the checkpoint": sorted(saved.keys() - now.keys()),
        "trained now but not in the checkpoint": sorted(now.keys() - saved.keys()),
        "of another shape": sorted(name for name in saved.keys() & now.keys() if saved[name].shape != now[name].shape),
    }
    return [f"tensors {what}: {', '.join(names[:5])} ({len(names)})" for what, names in kinds.items() if names]

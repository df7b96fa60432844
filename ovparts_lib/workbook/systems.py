"""Systems as a notebook uses them: built, loaded, trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn

from ovparts_lib.checkpoints import LoadReport, load_clipseg, load_weights, save_weights
from ovparts_lib.data import TrainingDataset, training_loader
from ovparts_lib.models.clipseg import MINIATURE_CLIPSEG, RELEASED, TRAINABLE_GROUPS, Clipseg, ClipsegSize
from ovparts_lib.runs import resolve_path
from ovparts_lib.training import TrainingResult, TrainingSettings, history_frame, launch, read_log, train
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.record import RunRecord

CLIPSEG_SIZES: dict[str, ClipsegSize] = {"released": RELEASED, "miniature": MINIATURE_CLIPSEG}
WEIGHTS = "weights.safetensors"

Evaluate = Callable[[nn.Module, int], dict[str, float]]


def device_of(params: Any) -> torch.device:
    """The device a run uses: ``auto`` takes the first CUDA device if there is one.

    Raises:
        ValueError: a CUDA device is asked for and torch finds none.
    """
    wanted = params.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {params.device!r}, but torch finds no CUDA device; use 'cpu' or 'auto'")
    return torch.device(wanted)


def build_model(params: Any, record: RunRecord | None = None) -> tuple[Clipseg, LoadReport]:
    """CLIPSeg with the weights a run begins from, or those of the checkpoint it scores.

    What no file holds (adapters, the background query, in the miniature the decoder too) is drawn from ``params.seed``.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit; the message names the keys.
    """
    torch.manual_seed(params.seed)
    source = params.checkpoint or params.initialise_from
    model, report = load_clipseg(
        resolve_path(source),
        CLIPSEG_SIZES[params.model_size],
        clip_path=resolve_path(params.clip_weights) if params.clip_weights else None,
        label_resize=params.label_resize,
    )
    model.set_trainable(params.trainable)
    if record is not None:
        record.note(checkpoint=report.to_dict())
    return model.to(device_of(params)), report


def trainable_table(model: Clipseg) -> pd.DataFrame:
    """Tensors and parameters of each part of the model, and whether they train."""
    rows = []
    groups = {**TRAINABLE_GROUPS, "rest of CLIP": ("clip.",)}
    counted: set[str] = set()
    for group, beginnings in groups.items():
        members = {n: p for n, p in model.named_parameters() if n.startswith(beginnings) and n not in counted}
        counted |= members.keys()
        rows.append(
            {
                "group": group,
                "trains": any(parameter.requires_grad for parameter in members.values()),
                "tensors": len(members),
                "parameters": sum(parameter.numel() for parameter in members.values()),
            }
        )
    return pd.DataFrame(rows)


def training_settings(params: Any) -> TrainingSettings:
    """The training loop's settings from a run's parameters."""
    return TrainingSettings(
        iterations=params.iterations,
        batch_size=params.batch_size // params.accumulate // params.devices,
        accumulate=params.accumulate,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        gradient_clip=params.gradient_clip,
        power=params.poly_power,
        precision=params.precision,
        log_every=params.log_every,
        evaluate_every=params.evaluate_every,
        checkpoint_every=params.checkpoint_every,
        seed=params.seed,
        device=device_of(params).type,
        devices=params.devices,
    )


def train_model(
    model: Clipseg, dataset: TrainingDataset, params: Any, record_path: Any, evaluate: Evaluate | None
) -> TrainingResult:
    """Train in this process (one of ``params.devices`` that were launched) and leave the weights in the run folder."""
    settings = training_settings(params)
    fabric = launch(settings)
    loader = training_loader(
        dataset,
        settings.batch_size * fabric.world_size,
        params.workers,
        params.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        pin_memory=settings.device == "cuda",
    )
    result = train(model, loader, settings, run_dir=record_path, evaluate=evaluate, fabric=fabric)
    if fabric.is_global_zero:
        save_weights(model, record_path / WEIGHTS, {"system": "clipseg", "size": params.model_size})
    fabric.barrier()
    return result


def train_on_devices(model: Clipseg, params: Any, record: RunRecord) -> pd.DataFrame:
    """Train on several devices in processes beside the notebook, which shows what they print.

    A kernel that has used CUDA cannot be forked, so each device gets a process of its own.

    Raises:
        RuntimeError: the processes ended with an error; what they printed is above.
    """
    command = [sys.executable, "-m", "ovparts_lib.workbook.distributed", str(record.path / "params.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(
            f"training on {params.devices} devices ended with exit code {process.returncode}; its output is above. "
            "Run it again to go on from the last checkpoint"
        )
    load_weights(model, record.path / WEIGHTS)
    return history_frame(read_log(record.run.log))

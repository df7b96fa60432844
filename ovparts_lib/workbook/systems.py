"""Systems as a notebook uses them: built, loaded, trained."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ovparts_lib.checkpoints.native import load_weights, within_its_file
from ovparts_lib.checkpoints.reading import RUN_WEIGHTS, CheckpointError, LoadReport, file_hash
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.loader import training_loader
from ovparts_lib.inspection import Panel
from ovparts_lib.options import Options
from ovparts_lib.runs import resolve_path
from ovparts_lib.runs.parameters import OwnImageParameters
from ovparts_lib.runs.project import cache_folder
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.systems.registry import SYSTEMS, untrained
from ovparts_lib.training import TrainingSettings, history_frame, launch, read_log
from ovparts_lib.training import train as run_loop
from ovparts_lib.training.interruption import run_beside
from ovparts_lib.workbook.output import RunOutput

Evaluate = Callable[[nn.Module, int], dict[str, float]]


def device_of(params: Options) -> torch.device:
    """The device a run uses: ``auto`` takes the first CUDA device if there is one."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(found if params.device == "auto" else params.device)


def build_model(params: SystemOptions, output: RunOutput | None = None) -> tuple[nn.Module, LoadReport]:
    """The run's system with the weights it begins from, or those of the checkpoint it scores.

    With CLIP weights alone the rest is new. What no file holds is drawn from ``params.seed``.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit; the message names the keys.
    """
    torch.manual_seed(params.seed)
    system, source = SYSTEMS[params.system], params.checkpoint or params.initialise_from
    size, options = params.sized(system.sizes[params.model_size]), params.model_options()
    clip_path = resolve_path(params.clip_weights) if params.clip_weights else None
    beside = {name: resolve_path(file) for name, file in params.weight_paths().items() if file}
    if source:
        if params.initialise_from:
            beside |= params.loading_options()
        with within_its_file(resolve_path(source)):
            model, report = system.load(resolve_path(source), size, clip_path, **beside, **options)
        if params.checkpoint and report.initialised:
            raise CheckpointError(f"{untrained(report, system)}. Train from it (initialise_from) rather than score it")
    else:
        model = system.build(size, **options)
        report = system.initialise(model, clip_path, **beside)
    model.set_trainable(params.trainable)
    if model.text_cache is not None:
        model.text_cache.folder = cache_folder() / "texts"
    if output is not None:
        output.run.record_once(weight_hashes=weight_hashes(params))
        output.note(weights=describe_weights(report))
    return model.to(device_of(params)), report


def weight_hashes(params: SystemOptions | OwnImageParameters) -> dict[str, str]:
    """SHA-256 of every file that the run's weights come from, by parameter."""
    keys = ("checkpoint", "initialise_from", "model", "clip_weights")
    files = {key: getattr(params, key, None) for key in keys}
    files |= params.weight_paths() if isinstance(params, SystemOptions) else {}
    return {key: file_hash(resolve_path(file)) for key, file in files.items() if file}


def describe_weights(report: LoadReport) -> dict[str, Any]:
    """What a run's provenance says about the weights it began from, beside their hashes: what was loaded."""
    loaded, initial = len(report.loaded), list(report.initialised)
    return {"kind": report.kind, "tensors_loaded": loaded, "left_at_initial_values": initial}


def trainable_table(model: nn.Module) -> Panel:
    """Tensors and parameters of each part of the model, and whether they train."""
    rows, left = [], dict(model.named_parameters())
    for group, beginnings in {**model.groups, "rest of CLIP": ("clip.",), "rest": ("",)}.items():
        members = [left.pop(name) for name in list(left) if name.startswith(beginnings)]
        if members:
            trains = any(parameter.requires_grad for parameter in members)
            rows.append((group, trains, len(members), sum(parameter.numel() for parameter in members)))
    table = pd.DataFrame(rows, columns=["group", "trains", "tensors", "parameters"])
    return Panel("trainable", table=table, title="What trains")


def training_settings(params: SystemOptions) -> TrainingSettings:
    """The training loop's settings from a run's parameters."""
    shared = params.chosen("iterations", "accumulate", "learning_rate", "weight_decay", "gradient_clip", "schedule")
    shared |= params.chosen("precision", "log_every", "evaluate_every", "checkpoint_every", "seed", "devices")
    shared |= {"batch_size": params.batch_size // params.accumulate, "device": str(device_of(params))}
    return TrainingSettings(**shared, **params.schedule_options())


def train(
    model: nn.Module,
    dataset: TrainingDataset | None,
    params: SystemOptions,
    output: RunOutput,
    evaluate: Evaluate | None = None,
) -> pd.DataFrame:
    """Train as the parameters say, or go on where an interrupted run stopped; leave the weights in the run folder.

    One device trains in this process. Several train in processes of their own beside the notebook, which shows what
    they print: a kernel that has used CUDA cannot be forked.

    Returns:
        The history, one row per logged step.

    Raises:
        RuntimeError, TrainingInterrupted: as :func:`ovparts_lib.training.interruption.run_beside`.
    """
    if not params.iterations:
        print("nothing to train: iterations is 0")
        return history_frame([])
    if params.devices == 1:
        return train_in_process(model, dataset, params, output.path, evaluate)
    command = [sys.executable, "-m", "ovparts_lib.workbook.distributed", str(output.path / "params.yaml")]
    run_beside(command)
    state, _ = load_weights(output.path / RUN_WEIGHTS, params.system)
    model.load_state_dict(state)
    return history_frame(read_log(output.run.log))


def train_in_process(
    model: nn.Module, dataset: TrainingDataset, params: SystemOptions, folder: Path, evaluate: Evaluate | None = None
) -> pd.DataFrame:
    """Train in this process, one of ``params.devices``, with ``weights.safetensors`` in the run folder; the history."""
    settings = training_settings(params)
    fabric = launch(settings)
    loader = training_loader(
        dataset,
        settings.batch_size,
        params.workers,
        params.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        pin_memory=fabric.device.type == "cuda",
    )
    with model.train().without_unused_towers(dataset.vocabulary) as brought_back:

        def evaluate_whole(model: nn.Module, step: int) -> dict[str, float]:
            with brought_back():
                return evaluate(model, step)

        periodic = None if evaluate is None else evaluate_whole
        history = run_loop(model, loader, settings, run_dir=folder, evaluate=periodic, fabric=fabric)
    if fabric.is_global_zero:
        about = {"setting": params.setting, "run": params.run, "iterations": params.iterations}
        SYSTEMS[params.system].save(model, folder / RUN_WEIGHTS, **about)
    fabric.barrier()
    return history

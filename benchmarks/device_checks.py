"""What ``gpu_check.py`` checks: each function gives ``{what: (value, limit)}``, and all pass that are within limits."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from measure import PICTURE, images, ovparts_tasks, part_maps, picture_size
from precisions import arithmetic, precisions, synchronise, without_dropout
from rows import HERE
from torch import Tensor

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.miniature.layout import render_miniature
from ovparts_lib.models.clip.towers import MINIATURE, build_clip
from ovparts_lib.runs import load_parameters
from ovparts_lib.runs.execute import execute
from ovparts_lib.vocabularies import load_vocabulary
from tests.training.processes import wait_for_step

# Relative differences (L2) from the reference's record, or from the CPU, in each arithmetic.
LIMITS = {"fp32": 1e-3, "tf32": 0.05, "fp16": 0.05, "bf16": 0.25}
LOSS_LIMIT, GRADIENT_LIMIT, WEIGHTS_LIMIT = 1e-4, 1e-2, 1e-4
Found = dict[str, tuple[float, float]]


def relative(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference as a share of the expected norm."""
    found, expected = (torch.as_tensor(one).detach().double().cpu() for one in (found, expected))
    return float((found - expected).norm() / expected.norm())


def in_all_precisions(predict: Callable[[], Tensor], expected: Tensor, device: torch.device, reference: str) -> Found:
    """Differences from what is expected, by precision."""
    found = {}
    for precision in precisions(device):
        with torch.inference_mode(), arithmetic(precision, device):
            values = predict()
            synchronise(device)
        found[f"{reference} {precision}"] = relative(values, expected), LIMITS[precision]
    return found


def recorded_scores(system: str, device: torch.device) -> Found:
    """A released-size prediction against the reference's record, where the system has one."""
    module = f"tests.golden.released_{system}"
    if find_spec(module) is None:
        return {}
    case = import_module(module).recorded_evaluation()
    case.model.to(device)
    try:
        return in_all_precisions(case.predict, torch.as_tensor(case.expected), device, "record")
    finally:
        case.model.cpu()  # the tests keep it; another's memory is measured


def miniature_scores(system: str, device: torch.device) -> Found:
    """A prediction of the miniature, with random weights, against the same on the CPU."""
    pictures, vocabulary = images(1, picture_size(PICTURE["evaluate"])), load_vocabulary("pascal_part_116")
    values = {}
    for place in (torch.device("cpu"), device):
        _, logits, _ = ovparts_tasks(system, "miniature", place, ExitStack())
        values[place.type] = lambda logits=logits: logits(pictures, vocabulary)
    with arithmetic("fp32", torch.device("cpu")):
        expected = values["cpu"]()
    return in_all_precisions(values[device.type], expected, device, "CPU")


def training_step(system: str, device: torch.device) -> Found:
    """Loss and gradients of one step of the miniature against the same on the CPU."""
    vocabulary = load_vocabulary("pascal_part_116").seen
    pictures, maps = images(2, (96, 96)), part_maps(vocabulary, 2, (96, 96))
    losses, gradients = [], []
    for place in (torch.device("cpu"), device):
        with ExitStack() as held, arithmetic("fp32", place):
            model, _, loss = ovparts_tasks(system, "miniature", place, held)
            without_dropout(model)
            torch.manual_seed(1)  # systems draw queries and points on the CPU
            value = loss(pictures, maps, vocabulary)
            value.backward()
            trained = [p.grad for p in model.parameters() if p.grad is not None]
            gradients.append(torch.cat([gradient.flatten().cpu() for gradient in trained]))
        losses.append(value)
    return {
        "loss": (relative(losses[1], losses[0]), LOSS_LIMIT),
        "gradients": (relative(gradients[1], gradients[0]), GRADIENT_LIMIT),
    }


def train_beside(folder: Path, *arguments: str) -> subprocess.Popen:
    """``short_training.py`` in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "short_training.py"), str(folder), *arguments]
    return subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained_weights(folder: Path, *arguments: str) -> Tensor:
    """The weights that such a process leaves, as one vector. Raises RuntimeError with its last line."""
    process = train_beside(folder, *arguments)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"training ended with exit status {process.returncode}: {output.strip().splitlines()[-1:]}")
    weights = torch.load(folder / "weights.pt", weights_only=True, map_location="cpu")
    return torch.cat([tensor.flatten().double() for tensor in weights.values()])


def kill_and_resume(folder: Path, device: torch.device) -> Found:
    """Twenty steps in one go, and killed on the way and started again."""
    whole = trained_weights(folder / "whole", "--device", device.type)
    killed = train_beside(folder / "killed", "--device", device.type, "--pause", "0.05")
    try:
        wait_for_step(killed, folder / "killed", 6)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    return {"weights": (relative(trained_weights(folder / "killed", "--device", device.type), whole), WEIGHTS_LIMIT)}


def several_devices(folder: Path, device: torch.device) -> Found:
    """NCCL: all devices together against one with the same global batch; with one device, a group of one.

    Without CUDA, two processes over gloo.
    """
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    if count == 1:
        torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            values = torch.arange(1.0, 1025.0, device=device)
            summed = values.clone()
            torch.distributed.all_reduce(summed)
            synchronise(device)
            return {"all-reduce of 1 device": (relative(summed, values), 0.0)}
        finally:
            torch.distributed.destroy_process_group()
    count = max(number for number in (1, 2, 4) if number <= count)  # the batch holds four pictures
    together = trained_weights(folder / "several", "--device", device.type, "--devices", str(count))
    alone = trained_weights(folder / "one", "--device", device.type)
    return {f"weights of {count} devices": (relative(together, alone), WEIGHTS_LIMIT)}


def notebook(folder: Path, device: torch.device) -> Found:
    """A notebook through papermill: a few steps on a few rendered pictures, with a CLIP that was never trained."""
    render_miniature(folder / "PascalPart116", "pascal_part_116", train=8, val=3, seed=3, progress=False)
    torch.manual_seed(0)
    save_clip(build_clip(MINIATURE), MINIATURE, folder / "miniclip.safetensors")
    shipped = HERE.parent / "params" / "miniature" / "20_clipseg.yaml"
    short = {"data_root": str(folder / "PascalPart116"), "clip_weights": str(folder / "miniclip.safetensors")}
    short |= {"outputs": str(folder), "initialise_from": None, "device": device.type, "iterations": 4, "batch_size": 2}
    short |= {"workers": 0, "evaluate_every": 0, "checkpoint_every": 2, "log_every": 1, "evaluation_limit": 2}
    short |= {"comparison_images": 2, "attention_images": 1, "intervals": 20}
    path = folder / "clipseg.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(shipped.read_text(encoding="utf-8")) | short), encoding="utf-8")
    return {"exit code": (float(execute(load_parameters(path))), 0.0)}

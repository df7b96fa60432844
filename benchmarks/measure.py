"""One measurement in a process of its own: prints one JSON object. ``run_all.py`` calls this; it can be run by hand."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovparts_lib.checkpoints.clipseg import load_clipseg
from ovparts_lib.models.clipseg import RELEASED
from ovparts_lib.models.preprocess import square_pixels
from ovparts_lib.training.loop import peak_memory_mib
from ovparts_lib.vocabularies import Vocabulary, load_vocabulary

IMAGE_SIZE = (375, 500)
TRAIN_BATCH = 2
LEARNING_RATE, WEIGHT_DECAY, GRADIENT_CLIP = 1e-4, 1e-4, 0.01


def images(count: int) -> list[Tensor]:
    """Random pictures, uint8 (3, 375, 500); the seed is fixed, so every implementation sees the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *IMAGE_SIZE), dtype=torch.uint8, generator=generator) for _ in range(count)]


def part_maps(vocabulary: Vocabulary, count: int) -> list[Tensor]:
    """Label maps with a few large part regions and ignored pixels elsewhere, int64 (375, 500)."""
    generator = torch.Generator().manual_seed(1)
    maps = []
    for _ in range(count):
        coarse = torch.randint(0, len(vocabulary.parts), (6, 8), generator=generator)
        coarse[torch.rand(6, 8, generator=generator) < 0.5] = vocabulary.ignore_label
        maps.append(nn.functional.interpolate(coarse[None, None].float(), IMAGE_SIZE)[0, 0].long())
    return maps


def ovparts_tasks(weights: Path, device: torch.device, compiled: bool) -> tuple[nn.Module, Callable, Callable]:
    """Our model, and functions (images, vocabulary) -> logits and (images, part maps, vocabulary) -> loss."""
    model, _ = load_clipseg(weights, RELEASED, label_resize="floor")
    model.to(device)
    if compiled:
        model.decoder.compile()
        model.clip.visual.transformer.compile()

    def logits(pictures: list[Tensor], vocabulary: Vocabulary) -> Tensor:
        scores = model.eval().predict(pictures, vocabulary)
        return torch.stack([torch.cat([one.logits, one.background[None]]) for one in scores])

    def loss(pictures: list[Tensor], maps: list[Tensor], vocabulary: Vocabulary) -> Tensor:
        batch = {"images": pictures, "part_maps": maps, "vocabulary": vocabulary}
        return sum(model.train().loss(batch).values())

    return model, logits, loss


def peer_tasks(weights: Path, device: torch.device, compiled: bool, full: bool) -> tuple[nn.Module, Callable, Callable]:
    """The same for transformers."""
    from clipseg_peer import PeerClipseg

    model = PeerClipseg(full)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    model.to(device)
    if compiled:
        model.clipseg_model.decoder.compile()
        model.clipseg_model.clip.vision_model.compile()

    def logits(pictures: list[Tensor], vocabulary: Vocabulary) -> Tensor:
        with torch.inference_mode():
            return model.eval().logits(square_pixels(pictures, RELEASED.image_size, device), vocabulary)

    def loss(pictures: list[Tensor], maps: list[Tensor], vocabulary: Vocabulary) -> Tensor:
        size = (RELEASED.image_size, RELEASED.image_size)
        targets = torch.stack([nn.functional.interpolate(m[None, None].float(), size)[0, 0].long() for m in maps])
        pixels = square_pixels(pictures, RELEASED.image_size, device)
        return model.train().loss(pixels, targets.to(device), vocabulary)

    return model, logits, loss


def optimiser_of(model: nn.Module) -> torch.optim.AdamW:
    """AdamW over what trains, as published but for the split of decayed tensors, which costs nothing."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint with the released key names")
    parser.add_argument("--task", choices=["evaluate", "train_step"], required=True)
    parser.add_argument(
        "--implementation", choices=["ovparts", "transformers_77", "transformers_longest"], required=True
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--keep", type=Path, help="file for the logits or the loss, to compare implementations")
    arguments = parser.parse_args()

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.implementation == "ovparts":
        model, logits, loss = ovparts_tasks(arguments.weights, device, arguments.compile)
    else:
        full = arguments.implementation == "transformers_77"
        model, logits, loss = peer_tasks(arguments.weights, device, arguments.compile, full)
    full_vocabulary = load_vocabulary("pascal_part_116")
    evaluating = arguments.task == "evaluate"
    count, vocabulary = (1, full_vocabulary) if evaluating else (TRAIN_BATCH, full_vocabulary.seen)
    pictures, maps = images(count), part_maps(vocabulary, count)
    optimiser = None if evaluating else optimiser_of(model)
    outcome: list[Tensor] = []

    def once() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            value = logits(pictures, vocabulary) if evaluating else loss(pictures, maps, vocabulary)
        if not evaluating:
            value.backward()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            nn.utils.clip_grad_norm_(trained, GRADIENT_CLIP)
            optimiser.step()
            optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if not outcome:
            outcome.append(value.detach().float().cpu())

    once()  # warm-up; encodes the vocabulary where an implementation keeps it
    seconds = []
    for _ in range(arguments.repeats):
        begin = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - begin)
    memory = peak_memory_mib(device)
    flops = math.nan
    if not arguments.compile:
        with FlopCounterMode(display=False) as counter:
            once()
        flops = counter.get_total_flops() / 1e9
    if arguments.keep:
        torch.save(outcome[0], arguments.keep)
    print(
        json.dumps(
            {
                "queries": len(vocabulary.parts) + 1,
                "images": count,
                "threads": torch.get_num_threads(),
                "repeats": arguments.repeats,
                "seconds_median": round(statistics.median(seconds), 4),
                "seconds_min": round(min(seconds), 4),
                "seconds_max": round(max(seconds), 4),
                "images_per_second": round(count / statistics.median(seconds), 3),
                "gflops": None if math.isnan(flops) else round(flops, 2),
                "peak_mib": round(memory, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

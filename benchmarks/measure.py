"""One measurement in a process of its own: prints one JSON object. ``run_all.py`` calls this; it can be run by hand."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
from recorded import VOCABULARY, recorded_batch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.images import square_pixels
from ovparts_lib.models.clip import text_cache
from ovparts_lib.systems.clipseg.model import RELEASED
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.training.loop import peak_memory_mib
from ovparts_lib.vocabularies import OBJECT_VOCABULARIES, PART_VOCABULARIES, PartVocabulary, Vocabulary, load_vocabulary

TASKS = ("evaluate", "train_step", "recorded_step", "encode_text")
TRAINING = ("train_step", "recorded_step")
IMPLEMENTATIONS = ("ovparts", "transformers_77", "transformers_longest")
PICTURE = {"evaluate": "375x500", "train_step": "384x384"}  # height x width
# The object that systems which need one are told, in the image of evaluate: a horse.
REGION = ObjectRegion(11, 60, 80, torch.ones(240, 300, dtype=torch.bool))
LEARNING_RATE, WEIGHT_DECAY, GRADIENT_CLIP = 1e-4, 1e-4, 0.01
TEXT_NAMES = 4  # names that encode_text encodes in a repeat
Work = Callable[[int], Tensor]


def images(count: int, size: tuple[int, int]) -> list[Tensor]:
    """Random pictures, uint8 (3, h, w); the seed is fixed, so every implementation sees the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for _ in range(count)]


def part_maps(vocabulary: Vocabulary, count: int, size: tuple[int, int]) -> list[Tensor]:
    """Label maps, int64 (h, w): a few large part regions and ignored pixels elsewhere; of whole objects four each."""
    generator = torch.Generator().manual_seed(1)
    grid = (6, 8) if isinstance(vocabulary, PartVocabulary) else (2, 4)
    maps = []
    for _ in range(count):
        coarse = torch.randint(0, len(vocabulary.classes), grid, generator=generator)
        coarse[torch.rand(grid, generator=generator) < 0.5] = vocabulary.ignore_label
        maps.append(nn.functional.interpolate(coarse[None, None].float(), size)[0, 0].long())
    return maps


def object_map(part_map: Tensor, vocabulary: PartVocabulary) -> Tensor:
    """The objects that the parts of a label map belong to."""
    table = torch.full((vocabulary.ignore_label + 1,), vocabulary.ignore_label)
    table[: len(vocabulary.parts)] = torch.tensor(vocabulary.part_to_object)
    return table[part_map]


def of_one_object(part_map: Tensor, vocabulary: PartVocabulary) -> Tensor:
    """A label map with the parts of the object that has most pixels, for systems that are told an object."""
    owners = object_map(part_map, vocabulary)
    largest = owners[owners != vocabulary.ignore_label].mode().values
    return part_map.where(owners == largest, vocabulary.ignore_label)


def random_names(clip: nn.Module, names: Sequence[str], templates: Sequence[str], **_: bool) -> Tensor:
    """In place of ``encode_names``: minutes of text tower that an image does not wait for."""
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(len(names), len(templates), clip.text_projection.shape[1], generator=generator)
    return nn.functional.normalize(embeddings, dim=-1).to(clip.text_projection.device)


def ovparts_tasks(
    system: str,
    size: str,
    device: torch.device,
    held: ExitStack,
    *,
    weights: Path | None = None,
    options: Mapping[str, Any] | None = None,
    compiled: bool = False,
) -> tuple[nn.Module, Callable, Callable]:
    """Our model, and functions (images, vocabulary) -> logits or labels and (images, part maps, vocabulary) -> loss.

    Without weights, a new model of the size with the seed fixed. What scoring or training does without is out of memory
    from the first call on until ``held`` is closed, as in a run.
    """
    entry, options, without = SYSTEMS[system], options or {}, []
    if weights:
        model, _ = entry.load(weights, entry.sizes[size], **options)
    else:
        torch.manual_seed(0)
        model = entry.build(size, **options)
    model.to(device)
    if compiled:
        # Module by module: tokenisers, checksums and chunking around them are not for a compiler.
        for module in model.children():
            for inner in module.modules():
                if type(inner).__module__.startswith("ovparts_lib.models"):
                    inner.compile()

    def let_go(vocabulary: Vocabulary) -> None:
        if not without:
            without.append(held.enter_context(model.without_unused_towers(vocabulary)))

    def logits(pictures: list[Tensor], vocabulary: Vocabulary) -> Tensor:
        model.eval()
        let_go(vocabulary)
        model.requires_grad_(False)  # torch's counter of FLOPs cannot do with parameters that train in inference mode
        asked = {}
        if model.needs_regions:  # as oracle-obj asks: the parts of the object at hand
            asked = {"regions": [[REGION]] * len(pictures), "class_ids": vocabulary.parts_of(REGION.object_id)}
        scores = model.predict(pictures, vocabulary, **asked)
        if scores[0].class_weights is not None:  # masks, whose classes are summed where labels are chosen
            return torch.stack([pred_all_map(one, len(vocabulary.classes)) for one in scores])
        maps = [[one.logits] if one.background is None else [one.logits, one.background[None]] for one in scores]
        return torch.stack([torch.cat(each) for each in maps])

    def loss(
        pictures: list[Tensor], maps: list[Tensor], vocabulary: Vocabulary, objects: list[Tensor] | None = None
    ) -> Tensor:
        model.train()
        let_go(vocabulary)
        maps = [of_one_object(one, vocabulary) for one in maps] if model.needs_regions else maps
        batch = {"images": pictures, "part_maps": maps, "vocabulary": vocabulary}
        if isinstance(vocabulary, PartVocabulary):
            batch["object_maps"] = objects or [object_map(one, vocabulary) for one in maps]
        return sum(model.loss(batch).values())

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

    def logits(pictures: list[Tensor], vocabulary: PartVocabulary) -> Tensor:
        with torch.inference_mode():
            return model.eval().logits(square_pixels(pictures, RELEASED.image_size, device), vocabulary)

    def loss(pictures: list[Tensor], maps: list[Tensor], vocabulary: PartVocabulary) -> Tensor:
        size = (RELEASED.image_size, RELEASED.image_size)
        resized = (nn.functional.interpolate(m[None, None].float(), size, mode="nearest-exact") for m in maps)
        targets = torch.stack([one[0, 0].long() for one in resized])
        pixels = square_pixels(pictures, RELEASED.image_size, device)
        return model.train().loss(pixels, targets.to(device), vocabulary)

    return model, logits, loss


def work_of(arguments: argparse.Namespace, device: torch.device, held: ExitStack) -> tuple[Work, Vocabulary, int]:
    """What a repeat does, given its number; the words it does it for; how many images it takes."""
    if arguments.implementation == "ovparts":
        chosen = {"weights": arguments.weights, "options": json.loads(arguments.options)}
        place = (arguments.system, arguments.size, device, held)
        model, logits, loss = ovparts_tasks(*place, **chosen, compiled=arguments.compile)
    else:
        full = arguments.implementation == "transformers_77"
        model, logits, loss = peer_tasks(arguments.weights, device, arguments.compile, full)
    vocabulary, size = load_vocabulary(arguments.vocabulary), picture_size(arguments.picture)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16")
    if arguments.task == "encode_text":
        # Other words in each repeat, since embeddings are kept.
        parts = vocabulary.classes
        lists = [PartVocabulary.from_words(parts[at : at + TEXT_NAMES]) for at in range(0, len(parts), TEXT_NAMES)]
        model.eval()
        return lambda number: embeddings_of(autocast(model.encode_vocabulary)(lists[number])), lists[0], 0
    if arguments.task == "evaluate":
        pictures = images(1, size)
        return lambda number: autocast(logits)(pictures, vocabulary), vocabulary, 1
    if arguments.task == "recorded_step":
        vocabulary = load_vocabulary(VOCABULARY).seen
        pictures, maps, objects = recorded_batch(arguments.system)
        loss = partial(loss, objects=objects)
    else:
        vocabulary = vocabulary.seen
        pictures, maps = images(arguments.batch, size), part_maps(vocabulary, arguments.batch, size)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # As published but for learning rates and for which tensors decay, which cost nothing.
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step(number: int) -> Tensor:
        value = autocast(loss)(pictures, maps, vocabulary)
        value.backward()
        nn.utils.clip_grad_norm_(trained, GRADIENT_CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return value

    return step, vocabulary, len(pictures)


def picture_size(text: str) -> tuple[int, int]:
    """(height, width) of ``"375x500"``; (0, 0) for a task without pictures of its own."""
    height, _, width = text.partition("x")
    return int(height or 0), int(width or 0)


def embeddings_of(texts: Any) -> Tensor:
    """The embeddings in what ``encode_vocabulary`` gives: a tensor, or an object that holds tensors."""
    return texts if isinstance(texts, Tensor) else next(one for one in vars(texts).values() if isinstance(one, Tensor))


def resident_mib(device: torch.device) -> float:
    """Memory in use now, counted as ``peak_memory_mib`` does."""
    used = torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return used / 2**20


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, default="ovparts")
    parser.add_argument("--weights", type=Path, help="checkpoint with the released key names; a new model without")
    parser.add_argument("--size", default="released", help="of the model; miniature for a quick look")
    parser.add_argument("--options", default="{}", help="JSON object: arguments of the model's class")
    parser.add_argument("--vocabulary", choices=PART_VOCABULARIES + OBJECT_VOCABULARIES, default="pascal_part_116")
    parser.add_argument("--picture", help="height x width, as 375x500; by default the task's")
    parser.add_argument("--batch", type=int, default=2, help="images of a training step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="after a warm-up; 0: one pass, FLOPs not counted")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--keep", type=Path, help="file for the logits, loss or embeddings, to compare rows")
    arguments = parser.parse_args()
    sizes = SYSTEMS[arguments.system].sizes
    if arguments.size not in sizes:
        parser.error(f"{arguments.system} has no size {arguments.size!r}; there are {', '.join(sizes)}")

    if arguments.picture is None:
        arguments.picture = PICTURE.get(arguments.task, "")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    held = ExitStack()
    work, vocabulary, count = work_of(arguments, device, held)
    baseline = resident_mib(device)

    def once(number: int) -> Tensor:
        value = work(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return value.detach().float().cpu()

    seconds, processor = [], []

    def timed(number: int) -> Tensor:
        begin, processor_begin = time.perf_counter(), time.process_time()
        value = once(number)
        seconds.append(time.perf_counter() - begin)
        processor.append(time.process_time() - processor_begin)
        return value

    encoder = text_cache.encode_names if arguments.task == "encode_text" else random_names
    counter = FlopCounterMode(display=False)
    with patch.object(text_cache, "encode_names", encoder):
        if not arguments.repeats:
            outcome = timed(0)
        else:
            outcome = once(0)  # warm-up; encodes the vocabulary where an implementation keeps it
            if arguments.compile:
                once(0)  # what the first step has changed is compiled for again
            for number in range(1, arguments.repeats + 1):
                timed(number)
    memory = peak_memory_mib(device)
    counted = arguments.repeats and not arguments.compile
    if counted:  # apart: the counter decomposes operators, which takes memory that they do not take
        with counter:
            once(arguments.repeats + 1)
    held.close()
    flops = round(counter.get_total_flops() / 1e9, 2) if counted else None
    if arguments.keep:
        torch.save(outcome, arguments.keep)
    found = {
        "vocabulary": vocabulary.name,
        "classes": len(vocabulary.classes),
        "picture": arguments.picture,
        "images": count,
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "seconds_median": round(statistics.median(seconds), 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "images_per_second": round(count / statistics.median(seconds), 3) if count else "",
        "cpu_seconds": round(statistics.median(processor), 4),
        "gflops": flops,
        "baseline_mib": round(baseline, 1),
        "peak_mib": round(memory, 1),
        "loss": float(outcome) if arguments.task in TRAINING else "",
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

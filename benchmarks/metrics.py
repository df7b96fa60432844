"""Time and memory of the metric part of an evaluation, the network excluded, beside independent implementations.

Every implementation gets the same class scores and labels of Pascal-size photographs and counts the same two confusion
matrices (the object known, and nothing known); each runs in a process of its own, so that peak memory is its own. Rows
are appended to ``results/metrics_cpu.csv`` or ``results/metrics_cuda.csv``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rows import about, append, in_own_process, results_file
from torch.nn import functional

from ovparts_lib.data.dataset import EvaluationSample, ObjectRegion
from ovparts_lib.evaluation.scoring import score_image
from ovparts_lib.systems.scores import Scores
from ovparts_lib.training.loop import peak_memory_mib
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

HEIGHT, WIDTH = 375, 500
IMPLEMENTATIONS = ("ovparts", "ovparts_strict", "ovparts_boundary", "numpy", "sklearn")
Matrices = dict[str, np.ndarray]


def sample_of(vocabulary: PartVocabulary, records: int, seed: int) -> EvaluationSample:
    """A picture with objects side by side on a background, each cut into blocks of its parts and unlabelled ones."""
    draw = np.random.default_rng(seed)
    ignore = vocabulary.ignore_label
    part_map, object_map = (np.full((HEIGHT, WIDTH), ignore) for _ in range(2))
    owners = draw.permutation(sorted(set(vocabulary.part_to_object)))[:records]
    span = WIDTH // records
    for place, owner in enumerate(owners.tolist()):
        height, width = int(HEIGHT * draw.uniform(0.4, 0.9)), int(span * draw.uniform(0.6, 0.95))
        top, left = int(draw.integers(0, HEIGHT - height)), place * span + int(draw.integers(0, span - width))
        blocks = draw.choice([*vocabulary.parts_of(owner), ignore], (height // 30 + 1, width // 30 + 1))
        box = slice(top, top + height), slice(left, left + width)
        part_map[box] = np.kron(blocks, np.ones((30, 30), int))[:height, :width]
        object_map[box] = owner
    regions = tuple(ObjectRegion.of(owner, object_map == owner) for owner in owners.tolist())
    image = torch.zeros(3, 1, 1, dtype=torch.uint8)  # not looked at
    return EvaluationSample(image, torch.from_numpy(part_map), torch.from_numpy(object_map), regions, f"{seed}")


def scores_of(vocabulary: PartVocabulary, grid: int, seed: int, device: torch.device) -> Scores:
    """Class scores with structure of a patch's size and some noise."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, len(vocabulary.parts) + 1, 22, 22, generator=draw)
    logits = functional.interpolate(4 * coarse, (grid, grid), mode="bilinear")[0]
    logits = (logits + 0.3 * torch.randn(logits.shape, generator=draw)).to(device)
    return Scores(logits[:-1], tuple(range(len(logits) - 1)), logits[-1], (HEIGHT, WIDTH))


def ours(scores: Scores, sample: EvaluationSample, vocabulary: PartVocabulary, **options: bool) -> Matrices:
    """Counts by this project."""
    found = score_image(scores, sample, vocabulary, **options)
    return {mode: counts.cpu().numpy() for mode, counts in found.matrices.items()}


def brute_force(scores: Scores, sample: EvaluationSample, vocabulary: PartVocabulary) -> Matrices:
    """Dense maps in numpy: resize all classes to the picture, arg-max, count; only what a record needs is repeated."""
    stack = torch.cat([scores.logits, scores.background[None]]).cpu().numpy()
    dense = _resized(_resized(stack, HEIGHT, 1), WIDTH, 2)
    everywhere = dense.argmax(0)
    known = {}
    for owner in sample.object_ids:
        parts = np.array(vocabulary.parts_of(owner))
        known[owner] = parts[dense[parts].argmax(0)]

    def count(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        side = len(vocabulary.parts) + 1
        return np.bincount(prediction * side + target, minlength=side * side).reshape(side, side)

    return _per_record(sample, vocabulary, everywhere, known, count)


def with_sklearn(scores: Scores, sample: EvaluationSample, vocabulary: PartVocabulary) -> Matrices:
    """Dense maps by torch, counted by ``sklearn.metrics.confusion_matrix``."""
    from sklearn.metrics import confusion_matrix

    stack = torch.cat([scores.logits, scores.background[None]]).cpu()
    dense = functional.interpolate(stack[None], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]
    everywhere = dense.argmax(0).numpy()
    known = {}
    for owner in sample.object_ids:
        parts = torch.tensor(vocabulary.parts_of(owner))
        known[owner] = parts[dense[parts].argmax(0)].numpy()
    labels = np.arange(len(vocabulary.parts) + 1)

    def count(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return confusion_matrix(target, prediction, labels=labels).T  # rows are predictions here

    return _per_record(sample, vocabulary, everywhere, known, count)


def _per_record(
    sample: EvaluationSample,
    vocabulary: PartVocabulary,
    everywhere: np.ndarray,
    known: dict[int, np.ndarray],
    count: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Matrices:
    side = len(vocabulary.parts) + 1
    totals = {mode: np.zeros((side, side), np.int64) for mode in ("oracle_obj", "pred_all")}
    part_map = sample.part_map.numpy()
    for region in sample.regions:
        inside = np.zeros(part_map.shape, bool)
        inside[region.box] = region.mask.numpy()
        inside &= part_map != vocabulary.ignore_label
        for mode, prediction in (("oracle_obj", known[region.object_id]), ("pred_all", everywhere)):
            totals[mode] += count(prediction[inside], part_map[inside])
            totals[mode][-1, -1] += int((~inside).sum())
    return totals


def _resized(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Bilinear along one axis, ``align_corners=False``."""
    source = values.shape[axis]
    place = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
    first = np.minimum(place.astype(int), source - 1)
    weight = (place - first).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    second = np.minimum(first + 1, source - 1)
    return values.take(first, axis) * (1 - weight) + values.take(second, axis) * weight


def implementation(name: str) -> Callable[[Scores, EvaluationSample, PartVocabulary], Matrices]:
    """The function of a name."""
    options = {"ovparts": {}, "ovparts_strict": {"strict": True}, "ovparts_boundary": {"boundary": True}}
    if name in options:
        return lambda scores, sample, vocabulary: ours(scores, sample, vocabulary, **options[name])
    return {"numpy": brute_force, "sklearn": with_sklearn}[name]


def measure(arguments: argparse.Namespace) -> None:
    """One implementation in this process; prints one JSON object."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    vocabulary, run = load_vocabulary(arguments.vocabulary), implementation(arguments.measure)
    scores = scores_of(vocabulary, arguments.grid, 0, device)
    samples = [sample_of(vocabulary, arguments.records, seed) for seed in range(arguments.images)]
    run(scores, samples[0], vocabulary)
    before = peak_memory_mib(device)
    seconds, totals = [], {}
    for sample in samples:
        begin = time.perf_counter()
        found = run(scores, sample, vocabulary)
        seconds.append((time.perf_counter() - begin) / len(sample.regions))
        totals = {mode: totals.get(mode, 0) + counts for mode, counts in found.items()}
    if arguments.keep:
        np.savez(arguments.keep, **totals)
    milliseconds = sorted(1000 * one for one in seconds)
    print(
        json.dumps(
            {
                "images": arguments.images,
                "records": arguments.images * arguments.records,
                "ms_per_record_median": round(statistics.median(milliseconds), 2),
                "ms_per_record_min": round(milliseconds[0], 2),
                "ms_per_record_max": round(milliseconds[-1], 2),
                "seconds_per_1000_records": round(statistics.mean(milliseconds), 2),
                "peak_mib": round(max(before, peak_memory_mib(device)), 1),
            }
        )
    )


def main() -> None:
    """Measure all implementations in turn, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--records", type=int, default=2, help="objects scored in each image")
    parser.add_argument("--grid", type=int, default=352, help="side of the score maps: CLIPSeg 352, CAT-Seg 96")
    parser.add_argument("--vocabulary", default="pascal_part_116")
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--note", default="", help="what else a reader of the row should know of the machine")
    parser.add_argument("--measure", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    fixed = about(arguments.device, ["numpy"]) | {
        "scikit_learn": version("scikit-learn") if "sklearn" in arguments.implementations else "",
        "classes": len(load_vocabulary(arguments.vocabulary).parts),
        "image": f"{HEIGHT}x{WIDTH}",
        "grid": arguments.grid,
        "records_per_image": arguments.records,
        "threads": arguments.threads,
        "note": arguments.note,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.implementations:
            keep = Path(folder) / f"{name}.npz"
            command = ["--measure", name, "--keep", str(keep)]
            for option in ("device", "threads", "images", "records", "grid", "vocabulary"):
                command += [f"--{option}", str(getattr(arguments, option))]
            row = fixed | {"implementation": name} | in_own_process(Path(__file__), command, arguments.device)
            row["different_pixels"] = difference(Path(folder) / f"{arguments.implementations[0]}.npz", keep)
            append(results_file("metrics", arguments.device), row)
            print(json.dumps(row))


def difference(first: Path, second: Path) -> int:
    """Pixels counted elsewhere by the second implementation, over both modes and all images."""
    with np.load(first) as one, np.load(second) as other:
        return int(sum(np.abs(one[mode] - other[mode]).sum() // 2 for mode in one.files))


if __name__ == "__main__":
    main()

"""FLOPs, time and memory of one evaluation record and one training step of ZSSeg+ in its released size.

The recorded reference does 951 GFLOP for a record (691 of them encoding the same texts again), in 17.1 s of one CPU
core and 3.24 GB; a training step of two crops takes 1,029 GFLOP and 4.4 GB, one of a single crop 11.1 s of CPU time.

    python benchmarks/zsseg_plus.py evaluation
    python benchmarks/zsseg_plus.py training --batch 2
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.systems.zsseg_plus.model import ZssegPlus
from ovparts_lib.vocabularies import load_vocabulary


def evaluation(model: ZssegPlus, objects: int) -> None:
    """Score objects of one 375 x 500 image, which stage 1 sees at 512 x 683."""
    vocabulary = load_vocabulary("pascal_part_116")
    image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8)
    region = ObjectRegion(11, 60, 80, torch.ones(240, 300, dtype=torch.bool))
    ids = vocabulary.parts_of(11)
    model.predict([image], vocabulary, class_ids=ids, background=False, regions=[[region] * objects])


def training(model: ZssegPlus, batch: int) -> None:
    """Forward and backward pass of crops of 512 x 512."""
    vocabulary = load_vocabulary("pascal_part_116").seen
    part_map = torch.full((512, 512), vocabulary.ignore_label)
    for number in range(9):
        part_map[100:400, 100 + 30 * number : 130 + 30 * number] = 32 + number
    object_map = torch.where(part_map == vocabulary.ignore_label, part_map, 5)
    images = [torch.randint(0, 256, (3, 512, 512), dtype=torch.uint8) for _ in range(batch)]
    losses = model.loss(
        {"images": images, "part_maps": [part_map] * batch, "object_maps": [object_map] * batch,
         "vocabulary": vocabulary}
    )  # fmt: skip
    sum(losses.values()).backward()
    model.zero_grad(set_to_none=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("evaluation", "training"))
    parser.add_argument("--batch", type=int, default=1, help="crops of a training step, or objects of the image")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = ZssegPlus()
    step = evaluation if arguments.what == "evaluation" else training
    model.train(arguments.what == "training")
    if arguments.what == "evaluation":
        model.requires_grad_(False)  # torch's counter of FLOPs cannot do with them in inference mode
    row = {"what": arguments.what, "batch": arguments.batch, "threads": torch.get_num_threads()}
    # the first pass encodes the texts, the others find them
    for name in ("first", "again"):
        start, cpu = time.perf_counter(), time.process_time()
        with FlopCounterMode(display=False) as counter:
            step(model, arguments.batch)
        row[f"gflop_{name}"] = round(counter.get_total_flops() / 1e9, 1)
        row[f"seconds_{name}"] = round(time.perf_counter() - start, 2)
        row[f"cpu_seconds_{name}"] = round(time.process_time() - cpu, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row["peak_gb"] = round(peak / (1e9 if sys.platform == "darwin" else 1e6), 2)
    print(row)


if __name__ == "__main__":
    main()

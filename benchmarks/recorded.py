"""The training step that was recorded of a reference: its weights, pictures, labels and options, from tests/golden."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import HERE
from torch import Tensor

sys.path.insert(0, str(HERE.parent))  # tests/ is not installed
from tests.golden.fill import fill, image

GOLDEN = HERE.parent / "tests" / "golden"
VOCABULARY = "pascal_part_116"  # whose seen classes every recorded step trains


@dataclass(frozen=True)
class RecordedStep:
    """A training step of a reference.

    Attributes:
        manifest: names and shapes of the tensors of its checkpoint, a file in ``tests/golden``.
        case: the recording, without extension.
        options: arguments of our model that make it compute what the reference computed.
    """

    manifest: str
    case: str
    options: dict[str, Any]


RECORDED = {
    "clipseg": RecordedStep("clipseg/finetuned.manifest.json", "clipseg/golden_train_voc", {"label_resize": "floor"}),
    "partclipseg": RecordedStep(
        "partclipseg/partclipseg.manifest.json",
        "partclipseg/golden_train_voc",
        {"attention_rule": "released", "label_resize": "floor", "loss_mean": "batch", "object_text": "released"},
    ),
}


def write_recorded_weights(system: str, path: Path) -> None:
    """The recorded weights (0.6 GB) as the checkpoint that the reference would write."""
    keys = json.loads((GOLDEN / RECORDED[system].manifest).read_text(encoding="utf-8"))["keys"]
    state = {
        name: torch.from_numpy(fill(name, tuple(facts["shape"]), facts["dtype"].startswith("float")))
        for name, facts in keys.items()
    }
    torch.save({"model": state}, path)


def recorded_batch(system: str) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
    """Pictures uint8 (3, h, w), part maps and, if the system trains on them, object maps int64 (h, w)."""
    facts = json.loads((GOLDEN / f"{RECORDED[system].case}.json").read_text(encoding="utf-8"))
    pictures = [torch.from_numpy(image(*each["fill.image"])).permute(2, 0, 1) for each in facts["images"]]
    with np.load(GOLDEN / f"{RECORDED[system].case}.npz") as arrays:
        parts, objects = (
            [torch.from_numpy(arrays[name].astype(np.int64)) for name in sorted(arrays.files) if name.startswith(kind)]
            for kind in ("target_part_", "target_obj_")
        )
    return pictures, parts, objects or None

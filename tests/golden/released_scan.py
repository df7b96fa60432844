"""SCAN in its released sizes with the weights of the recordings, through a file and the released-checkpoint loader.

The weights are 1.5 and 3.6 GB, so a test session makes the smaller one once, and nobody may change the model it is
given; the larger is not kept.
"""

import json
import re
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ovparts_lib.systems.scan.sizes import RELEASED, RELEASED_VITB
from ovparts_lib.systems.scan.weights import load_scan
from ovparts_lib.vocabularies import Vocabulary
from tests.golden.evaluation import RecordedEvaluation, picture
from tests.golden.fill import fill

FOLDER = Path(__file__).parent / "scan"
QUERY_TABLES = ("sem_seg_head.predictor.query_feat.weight", "sem_seg_head.predictor.query_embed.weight")


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def arrays(name):
    """(facts, recorded arrays) of a case."""
    return read_json(f"{name}.json"), np.load(FOLDER / f"{name}.npz")


def manifest(name, queries=100):
    """{name of a tensor: (shape, is floating)} as the released file has them."""
    keys = read_json(f"{name}.manifest.json")["keys"]
    shapes = {key: (tuple(facts["shape"]), facts["dtype"].startswith("float")) for key, facts in keys.items()}
    return shapes | {key: ((queries, shapes[key][0][1]), True) for key in QUERY_TABLES}


def filled(key, facts, scale):
    factors = [factor for pattern, factor in scale if re.search(pattern, key)]
    return torch.from_numpy(fill(key, *facts)) * (factors[0] if factors else 1)


def load_through_a_file(name, size, scale, **options):
    state = {key: filled(key, facts, scale) for key, facts in manifest(name, size.queries).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "SCAN.pth"
        torch.save({"model": state, "iteration": 119999, "optimizer": {}, "scheduler": {}}, path)
        del state
        model, report = load_scan(path, size, **options)
    return model.eval(), report


def scale_of(case):
    return tuple((pattern, factor) for pattern, factor in read_json(f"{case}.json").get("scale", ()))


@lru_cache(maxsize=1)
def vitb_scan(queries=12):
    """(model, report) of a filled ``SCAN-vitB.pth`` with the scale factors of the recordings."""
    return load_through_a_file("scan_vitB", replace(RELEASED_VITB, queries=queries), scale_of("golden_vitb_voc20_eval"))


def vitl_scan(queries=12, scale=()):
    """(model, report) of a filled ``SCAN.pth``; not kept, for it is large."""
    return load_through_a_file("scan_vitL", replace(RELEASED, queries=queries), scale)


def recorded_evaluation():
    """Masks with ViT-B; the classes that CLIP gives them depend on the recording's random shift."""
    facts, golden = arrays("golden_vitb_voc20_eval")
    model = vitb_scan()[0]
    pixels = picture(*map(int, re.match(r"fill\.image\((\d+), (\d+), (\d+)\)", facts["input"]).groups()))
    vocabulary = Vocabulary("recorded", tuple(facts["class_names"]))
    return RecordedEvaluation(
        model, lambda: model.predict([pixels], vocabulary)[0].logits[:, ::40, ::40], golden["mask_prob"]
    )

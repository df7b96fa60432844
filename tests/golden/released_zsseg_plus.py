"""ZSSeg+ in its released size with the weights of the recordings, through a file and the released loader."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.systems.zsseg_plus.weights import load_zsseg_plus
from ovparts_lib.vocabularies import load_vocabulary
from tests.golden.evaluation import RecordedEvaluation, picture
from tests.golden.fill import fill

FOLDER = Path(__file__).parent / "zsseg_plus"


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def read_arrays(name):
    return {key: torch.from_numpy(values) for key, values in np.load(FOLDER / name).items()}


def released_state(no_object_classes=75):
    """{name: tensor} as the released file holds it, but all in single precision as in the recordings."""
    state = {}
    for key, facts in read_json("zsseg_plus_R50.manifest.json")["keys"].items():
        if key == "criterion.empty_weight":
            state[key] = torch.tensor([1.0] * (no_object_classes - 1) + [0.1])
        else:
            state[key] = torch.as_tensor(fill(facts["tied_to"] or key, tuple(facts["shape"])))
    return state


def scene(height, width, ellipse, parts):
    """The recordings' object mask, bool (h, w), and the number 0..parts - 1 of the sector that a pixel is in."""
    cy, cx, ry, rx = ellipse
    y, x = np.mgrid[:height, :width].astype(np.float64)
    inside = ((y - cy * height) / (ry * height)) ** 2 + ((x - cx * width) / (rx * width)) ** 2 <= 1
    angle = np.arctan2(y - cy * height, x - cx * width)
    sector = np.minimum(np.floor((angle + np.pi) / (2 * np.pi) * parts), parts - 1).astype(int)
    return inside, sector


@cache
def released_zsseg_plus():
    """(model, report) of a filled checkpoint as detectron2 writes it; nobody may change the model for long."""
    content = {"model": released_state(), "iteration": 19999, "scheduler": {"base_lrs": [1e-4]}, "optimizer": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zsseg_plus_voc.pth"
        torch.save(content, path)
        model, report = load_zsseg_plus(path, label_resize="floor", dropout=0.0)
    return model.eval(), report


def recorded_evaluation():
    """Scores of all parts of Pascal-Part-116 for the region of one object."""
    facts, vocabulary = read_json("golden_voc_eval.json")["input"], load_vocabulary("pascal_part_116")
    model, pixels = released_zsseg_plus()[0], picture(375, 500, 0)
    region = ObjectRegion.of(facts["object_id"], scene(375, 500, facts["ellipse"], 1)[0])

    def predict():
        (scores,) = model.predict([pixels], vocabulary, regions=[[region]])
        maps = F.interpolate(scores.logits[None], size=(375, 500), mode="bilinear", align_corners=False)
        return maps[0, :, ::16, ::16]

    return RecordedEvaluation(model, predict, read_arrays("golden_voc_eval.npz")["sem_seg"])

"""PartCLIPSeg in its released size with the weights of the recordings, through a file and the released loader."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ovparts_lib.systems.partclipseg.weights import load_partclipseg
from ovparts_lib.vocabularies import load_vocabulary
from tests.golden.evaluation import RecordedEvaluation, picture, with_background
from tests.golden.fill import fill

FOLDER = Path(__file__).parent / "partclipseg"


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def manifest():
    """{name of a tensor: (shape, is floating)} as the released files have them."""
    keys = read_json("partclipseg.manifest.json")["keys"]
    return {key: (tuple(facts["shape"]), facts["dtype"].startswith("float")) for key, facts in keys.items()}


@cache
def released_partclipseg():
    """(model, report) of a filled checkpoint as detectron2 writes it; nobody may change the model."""
    state = {key: torch.from_numpy(fill(key, shape, floating)) for key, (shape, floating) in manifest().items()}
    content = {"model": state, "iteration": 19999, "scheduler": {"base_lrs": [np.float64(1e-4)]}, "optimizer": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "partclipseg_voc_oracle.pth"
        torch.save(content, path)
        model, report = load_partclipseg(path, attention_rule="released", label_resize="floor", loss_mean="batch")
    return model.eval(), report


def recorded_evaluation():
    """Logits of all object-specific parts of Pascal-Part-116."""
    model, pixels, vocabulary = released_partclipseg()[0], picture(375, 500, 0), load_vocabulary("pascal_part_116")
    return RecordedEvaluation(
        model,
        lambda: with_background(model.predict([pixels], vocabulary)[0])[:, 8::16, 8::16],
        np.load(FOLDER / "golden_eval_voc.npz")["part_obj_logits"],
    )

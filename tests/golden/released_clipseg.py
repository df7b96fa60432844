"""CLIPSeg in its released size with the weights of the recordings, through a file and the released-checkpoint loader.

The weights are 600 MB, so a test session makes them once; nobody may change the model they are given.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ovparts_lib.systems.clipseg.weights import load_clipseg
from ovparts_lib.vocabularies import load_vocabulary
from tests.golden.evaluation import RecordedEvaluation, picture, with_background
from tests.golden.fill import fill

FOLDER = Path(__file__).parent / "clipseg"


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def manifest(name):
    """{name of a tensor: (shape, is floating)} as the released file has them."""
    keys = read_json(f"{name}.manifest.json")["keys"]
    return {key: (tuple(facts["shape"]), facts["dtype"].startswith("float")) for key, facts in keys.items()}


@cache
def fine_tuned_clipseg():
    """(model, report) of a filled OV-PARTS checkpoint as detectron2 writes it."""
    state = {key: torch.from_numpy(fill(key, shape, flag)) for key, (shape, flag) in manifest("finetuned").items()}
    content = {"model": state, "iteration": 19999, "scheduler": {"base_lrs": [np.float64(1e-4)]}, "optimizer": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clipseg_ft_VA_L_F_voc.pth"
        torch.save(content, path)
        model, report = load_clipseg(path)
    return model.eval(), report


def recorded_evaluation():
    """Logits of all parts of Pascal-Part-116."""
    model, pixels, vocabulary = fine_tuned_clipseg()[0], picture(375, 500, 0), load_vocabulary("pascal_part_116")
    return RecordedEvaluation(
        model,
        lambda: with_background(model.predict([pixels], vocabulary)[0])[:, 8::16, 8::16],
        np.load(FOLDER / "golden_eval_voc.npz")["logits"],
    )

"""PartCATSeg in its released size with the weights of the recordings, through a file and the checkpoint loader.

The weights are 700 MB, so a test session makes them once; nobody may change the model they are given.
"""

import copy
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ovparts_lib.systems.partcatseg.weights import load_partcatseg
from ovparts_lib.vocabularies import PartVocabulary
from tests.golden.evaluation import RecordedEvaluation, picture, with_background
from tests.golden.released_catseg import filled

FOLDER = Path(__file__).parent / "partcatseg"


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def manifest():
    """{name of a tensor: shape} as the released files have them."""
    return {key: tuple(shape) for key, shape in read_json("partcatseg.manifest.json")["keys"].items()}


@cache
def filled_partcatseg():
    """(model, report) of a filled checkpoint as detectron2 writes it."""
    state = {key: filled(key, shape) for key, shape in manifest().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "partcatseg_voc.pth"
        torch.save({"model": state, "iteration": 19999, "optimizer": {}, "scheduler": {}}, path)
        model, report = load_partcatseg(path)
    return model.eval(), report


def recorded_evaluation():
    """Logits of eight parts of own words."""
    facts = read_json("golden_eval_ade_mini.json")
    model, pixels = copy.copy(filled_partcatseg()[0]), picture(*facts["case"]["image"])
    model.padding, info = "stretched", facts["info"]
    parts, objects = (tuple(info[name]) for name in ("specific_classes", "obj_in_part_classes"))
    vocabulary = PartVocabulary("recorded", parts, objects, ignore_label=facts["case"]["ignore"])
    return RecordedEvaluation(
        model,
        lambda: with_background(model.predict([pixels], vocabulary)[0])[None, :, ::4, ::4],
        np.load(FOLDER / "golden_eval_ade_mini.npz")["logit"],
    )

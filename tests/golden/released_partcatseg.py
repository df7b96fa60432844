"""PartCATSeg in its released size with the weights of the recordings, through a file and the checkpoint loader.

The weights are 700 MB, so a test session makes them once; nobody may change the model they are given.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import torch

from ovparts_lib.systems.partcatseg.weights import load_partcatseg
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

"""CATSeg in its released sizes with the weights of the recordings, through a file and the released-checkpoint loader.

The weights are 700 MB, so a test session makes each kind once; nobody may change the models they are given.
"""

import copy
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ovparts_lib.systems.catseg.weights import load_catseg
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary
from tests.golden.evaluation import RecordedEvaluation, picture, with_background
from tests.golden.fill import fill

FOLDER = Path(__file__).parent / "catseg"


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def manifest(name):
    """{name of a tensor: shape} as the released file has them."""
    return {key: tuple(shape) for key, shape in read_json(f"{name}.manifest.json")["keys"].items()}


@cache
def filled(key, shape):
    """The recordings' value of a tensor; CLIP's are needed by both variants."""
    if key.endswith("attn_mask"):
        return torch.zeros(shape)  # constants that no loader should read
    return torch.from_numpy(fill(key, shape))


def filled_state(name):
    return {key: filled(key, shape) for key, shape in manifest(name).items()}


def load_through_a_file(state, **arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_final.pth"
        torch.save({"model": state, "iteration": 79999, "optimizer": {}, "scheduler": {}}, path)
        return load_catseg(path, **arguments)


@cache
def resnet_catseg():
    """(model, report) of a filled OV-PARTS checkpoint."""
    model, report = load_through_a_file(filled_state("ovparts_catseg_r101"))
    return model.eval(), report


@cache
def dinov2_catseg():
    """(model, report) of a filled checkpoint of the DINOv2 variant; text embeddings are shared with the other."""
    model, report = load_through_a_file(filled_state("partcatseg_catseg_dinov2"))
    model.text_cache = resnet_catseg()[0].text_cache
    return model.eval(), report


def recorded_evaluation():
    """Probabilities of 19 parts, by sliding window."""
    model, pixels = copy.copy(resnet_catseg()[0]), picture(280, 420, 3)
    model.sliding_window, model.pooling = True, 1
    pascal, names = load_vocabulary("pascal_part_116"), read_json("golden_zs_voc_sliding.json")["test_classes"]
    vocabulary = PartVocabulary("recorded", tuple(names), pascal.objects, pascal.unseen_objects)

    def predict():
        channels = with_background(model.predict([pixels], vocabulary)[0]).sigmoid()
        return F.interpolate(channels[None], size=(280, 420), mode="bilinear", align_corners=False)[0, :, ::16, ::16]

    return RecordedEvaluation(model, predict, np.load(FOLDER / "golden_zs_voc_sliding.npz")["sem_seg_all_classes"])

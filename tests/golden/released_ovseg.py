"""OVSeg in its released sizes with the weights of the recordings, through a file and the released-checkpoint loader.

The weights are 0.8 and 2.1 GB, so a test session makes each once; nobody may change the models they are given.
"""

import copy
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ovparts_lib.systems.ovseg.weights import load_ovseg
from ovparts_lib.vocabularies import Vocabulary
from tests.golden.evaluation import RecordedEvaluation, picture
from tests.golden.fill import fill

FOLDER = Path(__file__).parent / "ovseg"


def read_json(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def arrays(name):
    """(facts, recorded arrays) of a case."""
    return read_json(f"{name}.json"), np.load(FOLDER / f"{name}.npz")


def manifest(name):
    """{name of a tensor: (shape, is floating)} as the released file has them."""
    keys = read_json(f"{name}.manifest.json")["keys"]
    return {key: (tuple(facts["shape"]), facts["dtype"].startswith("float")) for key, facts in keys.items()}


def filled_state(name):
    return {key: torch.from_numpy(fill(key, *facts)) for key, facts in manifest(name).items()}


def load_through_a_file(state, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_final.pth"
        torch.save({"model": state, "iteration": 119999, "optimizer": {}, "scheduler": {}}, path)
        state.clear()
        return load_ovseg(path, without_crop="as_released", **options)


@cache
def r101c_ovseg():
    """(model, report) of a filled ``ovseg_R101c_vitB16_ft_mpt.pth``."""
    model, report = load_through_a_file(filled_state("r101c_vitB16"))
    return model.eval(), report


def swin_ovseg():
    """(model, report) of a filled ``ovseg_swinbase_vitL14_ft_mpt.pth``; not kept, for it is large."""
    model, report = load_through_a_file(filled_state("swinB_vitL14"))
    return model.eval(), report


def recorded_evaluation():
    """Class maps of PASCAL VOC's 20 classes with R-101c."""
    facts, golden = arrays("golden_r101c_vitB_pas20_eval")
    model, pixels = copy.deepcopy(r101c_ovseg()[0]), picture(375, 500, 1)
    model.transformer_decoder.query_embed.weight.data *= 32
    model.ensemble_weight = 0.45
    vocabulary = Vocabulary("recorded", tuple(facts["class_names"]))

    def predict():
        maps = model.predict([pixels], vocabulary)[0].class_maps()
        return F.interpolate(maps[None], size=(375, 500), mode="bilinear", align_corners=False)[0, :, ::16, ::16]

    return RecordedEvaluation(model, predict, golden["semseg_out"])

"""PartCLIPSeg's parameters and the files shipped with them."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from ovparts_lib.runs import ParameterError, load_parameters, parameter_model, validate_parameters
from ovparts_lib.systems.partclipseg.model import Partclipseg
from tests.systems.tiny import TINY

PartclipsegParameters = parameter_model("23_partclipseg")

PARAMS = Path(__file__).parents[2] / "params"
CORRECTED = PARAMS / "zero_shot" / "partclipseg_pascal_part_116.yaml"
RELEASED = PARAMS / "zero_shot" / "partclipseg_pascal_part_116_released.yaml"
# What the released program did, of what parameters can say.
SLIPS = {
    "channel_order": "bgr",
    "label_resize": "floor",
    "object_text": "released",
    "attention_rule": "released",
    "oracle_rule": "zero_others",
    "ground_truth": "double_resized",
    "empty_samples": "replace_as_released",
}
# Its configuration files: optimisation, data, loss.
RECIPE = {
    "iterations": 20000,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "gradient_clip": 0.01,
    "poly_power": 0.9,
    "precision": "32-true",
    "flip": 0.5,
    "queries_per_step": None,
    "background_weight": 0.05,
    "object_weight": 1.0,
    "part_weight": 1.0,
    "separation_weight": 0.1,
    "enhancement_weight": 0.01,
    "attention_threshold": 0.3,
    "attention_layer": -1,
    "loss_mean": "image",
    "trainable": ["visual_adapter", "language", "film", "decoder"],
}


def shipped(*settings):
    return [path for setting in settings for path in sorted((PARAMS / setting).glob("partclipseg_*.yaml"))]


def header(path):
    text = path.read_text(encoding="utf-8")
    return " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))


@pytest.fixture
def values():
    return yaml.safe_load((PARAMS / "miniature" / "23_partclipseg.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_a_threshold_that_parameters_accept_is_one_the_model_accepts(values, threshold):
    params = validate_parameters(PartclipsegParameters, values | {"attention_threshold": threshold})
    torch.manual_seed(0)
    assert Partclipseg(TINY, **params.model_options()).attention_threshold == threshold


@pytest.mark.parametrize("threshold", [-0.01, 1.01])
def test_a_threshold_outside_is_refused_by_both(values, threshold):
    with pytest.raises(ParameterError, match="attention_threshold"):
        validate_parameters(PartclipsegParameters, values | {"attention_threshold": threshold})
    with pytest.raises(ValueError, match="threshold"):
        Partclipseg(TINY, attention_threshold=threshold)


def test_layer_and_chunk_reach_the_model(values):
    values |= {"model_size": "released", "attention_layer": 1, "query_chunk": 3}
    model = Partclipseg(TINY, **validate_parameters(PartclipsegParameters, values).model_options())
    assert (model.attention_layer, model.query_chunk) == (1, 3)
    assert "query_chunk" in PartclipsegParameters.free_keys()
    assert "attention_layer" not in PartclipsegParameters.free_keys()


@pytest.mark.parametrize(
    ("size", "layer", "fits"),
    [
        ("released", -3, True),
        ("released", 2, True),
        ("released", 3, False),
        ("released", -4, False),
        ("miniature", 0, True),
        ("miniature", -1, True),
        ("miniature", 1, False),
        ("miniature", -2, False),
    ],
)
def test_a_layer_that_the_decoder_has_not_is_refused_before_anything_is_built(values, size, layer, fits):
    values |= {"model_size": size, "attention_layer": layer}
    if fits:
        assert validate_parameters(PartclipsegParameters, values).attention_layer == layer
    else:
        with pytest.raises(ParameterError, match=f"the {size} decoder has the layers 0 to .* no layer {layer}"):
            validate_parameters(PartclipsegParameters, values)
    with pytest.raises(ParameterError, match="query_chunk = 0: expected a value greater than or equal to 1"):
        validate_parameters(PartclipsegParameters, values | {"query_chunk": 0})


@pytest.mark.parametrize("path", shipped("zero_shot", "few_shot", "cross_dataset"), ids=lambda path: path.stem)
def test_every_file_has_the_published_recipe_and_says_where_it_departs(path):
    params = load_parameters(path)
    assert {key: getattr(params, key) for key in RECIPE} == RECIPE
    if path == RELEASED:
        return
    scored_on_partimagenet = params.scored_dataset.startswith("partimagenet")
    assert not any(getattr(params, key) == released for key, released in SLIPS.items())
    for key, released in SLIPS.items():
        if not (key == "ground_truth" and scored_on_partimagenet):
            assert re.search(rf"\b{key}\b", header(path)), f"{key} of {path}"
            field = type(params).model_fields[key]
            assert released in field.description, f"the explanation of {key}"
    assert ("augmentation" in header(path)) == params.dataset.startswith("partimagenet")
    unreleased = path.parent.name != "zero_shot" or "ood" in path.stem
    assert ("released no configuration" in header(path)) == unreleased


def test_the_released_run_is_the_corrected_one_with_the_slips():
    released, corrected = (load_parameters(path).model_dump() for path in (RELEASED, CORRECTED))
    different = {key for key in released if released[key] != corrected[key]}
    assert different == {*SLIPS, "run", "seed", "protocols", "boundary"}
    assert {key: released[key] for key in SLIPS} == SLIPS
    assert released["seed"] == 12345678
    assert all(key in header(RELEASED) for key in SLIPS)


def test_it_has_a_file_wherever_clipseg_has_one():
    for setting in ("zero_shot", "few_shot", "cross_dataset", "miniature_settings"):
        of_clipseg = {path.name for path in (PARAMS / setting).glob("clipseg_*.yaml")}
        assert {f"part{name}" for name in of_clipseg} <= {path.name for path in shipped(setting)}


@pytest.mark.parametrize("path", shipped("miniature_settings"), ids=lambda path: path.stem)
def test_miniature_settings_differ_from_clipsegs_in_the_system_only(path):
    ours = load_parameters(path)
    theirs = load_parameters(path.with_name(path.name.removeprefix("part")))
    for key in ("dataset", "data_root", "train_split", "shots", "test_dataset", "test_root", "test_split"):
        assert getattr(ours, key) == getattr(theirs, key)
    for key in ("iterations", "batch_size", "queries_per_step", "trainable", "clip_weights"):
        assert getattr(ours, key) == getattr(theirs, key)
    shared = load_parameters(PARAMS / "miniature" / "23_partclipseg.yaml")
    assert ours.model_options() == shared.model_options()

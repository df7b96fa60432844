"""The parameters of CATSeg and PartCATSeg, and the files shipped with them."""

from pathlib import Path

import pytest
import torch
import yaml

from ovparts_lib.runs import load_parameters, parameter_model, validate_parameters
from ovparts_lib.systems.catseg.model import MINIATURE_COST, Catseg
from ovparts_lib.systems.registry import SYSTEMS

CatsegParameters = parameter_model("21_catseg")
PartcatsegParameters = parameter_model("24_partcatseg")

PARAMS = Path(__file__).parents[2] / "params"
SHIPPED = sorted(
    path
    for path in PARAMS.glob("*/*catseg*.yaml")
    if path.parent.name not in ("own_image", "miniature", "miniature_settings")
)
TWINS = [path for path in SHIPPED if path.stem.endswith("_released")]
PUBLISHED_READINGS = {"ov_parts", "partcatseg_oracle", "partcatseg_pred_all"}


def names(paths):
    return [f"{path.parent.name}/{path.stem}" for path in paths]


def released_values(params):
    """What the released code does where a parameter has another default."""
    values = {
        "label_resize": "floor",
        "padding": "stretched",
        "oracle_rule": "substring",
        "empty_samples": "replace_as_released",
    }
    if not params.scored_dataset.startswith("partimagenet"):
        values["ground_truth"] = "double_resized"
    if params.dataset.startswith("partimagenet"):
        values["augmentation"] = "discarded_as_released"
    if isinstance(params, PartcatsegParameters):
        values["second_stage"] = "random"
    return values


def header(path):
    """The comment that a file begins with, in one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first])


def catseg(**changes):
    path = PARAMS / "zero_shot" / "catseg_pascal_part_116.yaml"
    return validate_parameters(CatsegParameters, yaml.safe_load(path.read_text(encoding="utf-8")) | changes)


@pytest.mark.parametrize("path", SHIPPED, ids=names(SHIPPED))
def test_the_header_names_every_value_that_differs_from_the_released_one(path):
    params = load_parameters(path)
    differing = {key for key, value in released_values(params).items() if getattr(params, key) != value}
    if not set(params.protocols) <= PUBLISHED_READINGS:
        differing.add("protocols")
    named = {word.strip("():;,.") for word in header(path).split()} & set(type(params).model_fields)
    assert differing <= named
    assert bool(differing) != path.stem.endswith("_released")


@pytest.mark.parametrize("path", TWINS, ids=names(TWINS))
def test_a_released_counterpart_differs_in_what_the_release_did_and_in_nothing_else(path):
    released, ordinary = (load_parameters(one) for one in (path, path.with_stem(path.stem.removesuffix("_released"))))
    for key, value in released_values(released).items():
        assert getattr(released, key) == value, key
    changed = {key for key in type(released).model_fields if getattr(released, key) != getattr(ordinary, key)}
    assert changed <= {*released_values(released), "run", "seed", "protocols"}
    assert set(released.protocols) <= PUBLISHED_READINGS
    assert path.name in header(path.with_stem(path.stem.removesuffix("_released")))


def test_there_are_released_counterparts_of_both_systems():
    assert {load_parameters(path).system for path in TWINS} == {"catseg", "partcatseg"}


@pytest.mark.parametrize("path", SHIPPED, ids=names(SHIPPED))
def test_test_images_are_resized_as_the_data_set_scored_on_wants(path):
    params = load_parameters(path)
    expected = None if params.scored_dataset.startswith("partimagenet") else 640
    assert params.test_shortest_edge == expected
    size = params.sized(SYSTEMS[params.system].sizes[params.model_size])
    assert (size.inputs.shortest_edge, size.inputs.longest_edge) == (expected, 768)


def test_a_sliding_window_is_scored_without_pooling_unless_something_else_is_asked_for():
    shipped = [params for params in map(load_parameters, SHIPPED) if params.system == "catseg"]
    assert all(params.pooling is None for params in shipped)
    assert "pooling" not in catseg().model_options()
    for options, expected in (({}, 2), ({"sliding_window": True}, 1), ({"sliding_window": True, "pooling": 2}, 2)):
        from_run_file = Catseg(MINIATURE_COST, **catseg(**options).model_options())
        assert (from_run_file.pooling, Catseg(MINIATURE_COST, **options).pooling) == (expected, expected)


@pytest.mark.parametrize("system", ["catseg", "partcatseg"])
@pytest.mark.parametrize("kind", ["released", "miniature"])
def test_every_size_has_an_unguided_one_that_differs_in_guidance_alone(system, kind):
    entry = SYSTEMS[system]
    guided, unguided = (entry.sizes[f"{kind}{end}"] for end in ("", "_unguided"))
    with torch.device("meta"):
        models = [entry.build(size) for size in (guided, unguided)]
    shapes = [{name: tuple(one.shape) for name, one in model.named_parameters()} for model in models]
    lost = set(shapes[0]) - set(shapes[1])
    assert lost
    assert all(name.startswith("guidance.") or "appearance." in name or "guidance_norm" in name for name in lost)
    assert not any(name.startswith("guidance.") or "appearance." in name for name in shapes[1])
    assert set(shapes[1]) <= set(shapes[0])
    assert any("text_guidance." in name for name in shapes[1])
    dim = guided.aggregator.dim
    query = next(name for name in shapes[1] if name.endswith("spatial.block1.attention.query.weight"))
    assert (shapes[0][query], shapes[1][query]) == ((dim, dim + guided.aggregator.guidance_dim), (dim, dim))

"""What Python and run files take where nothing is said is the same: the published recipe's value of every option."""

import inspect
from dataclasses import is_dataclass

import pytest
import torch

from ovparts_lib.data.transforms import training_transform
from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.runs.parameters import system_parameters
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.systems import training_settings

# Not chosen by taste but by the machine, or by what is trained.
OF_THE_MACHINE = {"device", "evaluate_every"}
SIZES = [
    (system, size) for system, entry in SYSTEMS.items() for size in entry.sizes if not size.startswith("miniature")
]


def published(system, **given):
    """Options of a run that says nothing but its data set, which is none that published values depend on."""
    model = system_parameters(SYSTEMS[system])
    return model(setting="any", run="any", dataset="own", data_root="any", **given)


def facts(model):
    """What a model was told when it was built, its modules' settings included."""
    plain = (bool, int, float, str, tuple, dict, type(None))
    own = {key: value for key, value in vars(model).items() if isinstance(value, plain) or is_dataclass(value)}
    own["lr_multipliers"] = {group: factor for group, factor in model.lr_multipliers.items() if factor != 1}
    private = {key: value for key, value in own.items() if not key.startswith("_")}
    return private, repr(model)


@pytest.mark.parametrize(("system", "size"), SIZES)
def test_a_model_built_in_python_is_that_of_a_run_file(system, size):
    entry, params = SYSTEMS[system], published(system, model_size=size)
    with torch.device("meta"):
        in_python = entry.build(size)
        from_run_file = entry.build(params.sized(entry.sizes[size]), **params.model_options())
    assert facts(in_python) == facts(from_run_file)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_option_of_a_run_reaches_the_model_under_its_name(system):
    """An argument of a constructor that no run file sets has no other value than its default in any run."""
    arguments = {
        name
        for parent in SYSTEMS[system].model_class.__mro__
        if "__init__" in vars(parent)
        for name in inspect.signature(parent.__init__).parameters
    }
    assert set(published(system).model_options()) <= arguments


def test_training_settings_are_clipsegs_where_nothing_is_said():
    params = published("clipseg")
    settings = training_settings(params)
    assert {
        name: (value, getattr(settings, name))
        for name, value in vars(type(settings)()).items()
        if name not in OF_THE_MACHINE and value != getattr(settings, name)
    } == {}


def test_images_are_prepared_as_for_clipseg_where_nothing_is_said():
    params = published("clipseg")
    defaults = {name: each.default for name, each in inspect.signature(training_transform).parameters.items()}
    assert (defaults["shortest_edge"], defaults["longest_edge"]) == (params.shortest_edge, params.longest_edge)
    assert (defaults["label_resize"], defaults["channel_order"]) == (params.label_resize, params.channel_order)


@pytest.mark.parametrize("system", SYSTEMS)
def test_evaluation_is_that_of_a_run_file(system):
    params = published(system)
    for name, argument in inspect.signature(evaluate).parameters.items():
        if name in type(params).model_fields and name not in ("workers", *OF_THE_MACHINE):
            assert argument.default in (inspect.Parameter.empty, getattr(params, name)), name

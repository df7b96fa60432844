"""ZSSeg+'s parameters and the files shipped with them."""

from pathlib import Path

import pytest
import torch

from ovparts_lib.runs import ParameterError, load_parameters, parameter_model, validate_parameters
from ovparts_lib.systems.zsseg_plus.model import ZssegPlus
from ovparts_lib.systems.zsseg_plus.prompt_tuning import PromptTuningSettings
from tests.systems.zsseg_plus.tiny import TINY_ZSSEG_PLUS

PARAMS = Path(__file__).parents[2] / "params"
SLIPS = {
    "label_resize": "floor",
    "oracle_rule": "substring",
    "ground_truth": "double_resized",
    "empty_samples": "replace_as_released",
}
PASCAL = {**SLIPS, "object_remap": "parts_as_released"}
# The released configuration files.
RECIPE = {
    "iterations": 20000,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "gradient_clip": 0.01,
    "backbone_rate": 0.1,
    "poly_power": 0.9,
    "crop": 512,
    "shortest_edge": [320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960],
    "longest_edge": 768,
    "photometric": True,
    "dropout": 0.1,
    "mask_weight": 20.0,
    "no_object_weight": 0.1,
    "ensemble_weight": 0.5,
}


def shipped(pattern):
    return sorted(path for path in PARAMS.glob(pattern) if path.parent.name not in ("miniature", "own_image"))


@pytest.mark.parametrize("path", shipped("*/*zsseg_plus*.yaml"), ids=lambda path: path.stem)
def test_every_file_has_the_published_recipe(path):
    params = load_parameters(path)
    assert {key: getattr(params, key) for key in RECIPE} == RECIPE
    torch.manual_seed(0)
    ZssegPlus(TINY_ZSSEG_PLUS, **params.model_options())
    PromptTuningSettings(**params.prompt_settings())
    if path.stem.endswith("_released"):
        return
    assert not any(getattr(params, key) == released for key, released in PASCAL.items())


@pytest.mark.parametrize(("dataset", "slips"), [("pascal_part_116", PASCAL), ("ade20k_part_234", SLIPS)])
def test_the_released_run_is_the_sound_one_with_the_slips(dataset, slips):
    folder = PARAMS / "zero_shot"
    released, sound = (
        load_parameters(folder / f"zsseg_plus_{dataset}{which}.yaml").model_dump() for which in ("_released", "")
    )
    assert {key for key in released if released[key] != sound[key]} == {*slips, "run", "protocols"}
    assert {key: released[key] for key in slips} == slips


def test_the_released_training_lost_the_masks_of_five_seen_objects():
    params = load_parameters(PARAMS / "zero_shot" / "zsseg_plus_pascal_part_116_released.yaml")
    seen = {"horse", "person", "pottedplant", "train", "tvmonitor"}
    unseen = {"dog", "motorbike", "sheep", "sofa"}
    assert set(params.withheld_objects()) == seen | unseen
    sound = load_parameters(PARAMS / "zero_shot" / "zsseg_plus_pascal_part_116.yaml")
    assert sound.withheld_objects() == ()


@pytest.mark.parametrize("key", ["prompts", "backbone_weights"])
@pytest.mark.parametrize("source", ["checkpoint", "initialise_from"])
def test_a_checkpoint_brings_prompts_and_backbone(key, source):
    model = parameter_model("22_zsseg_plus")
    values = {"setting": "a", "run": "b", source: "model.pth"}
    params = validate_parameters(model, values)
    assert params.prompts is None and params.backbone_weights is None
    with pytest.raises(ParameterError, match=f"{key}, {source}: {source} holds them"):
        validate_parameters(model, values | {key: "file.pth"})

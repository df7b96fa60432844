import math

import pytest

from ovparts_lib.training import TrainingSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("batch_size", 0),
        ("accumulate", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("weight_decay", -1e-4),
        ("gradient_clip", 0.0),
        ("schedule", "cosine_with_typo"),
        ("power", math.inf),
        ("warmup", -1),
        ("precision", "fp16"),
        ("log_every", 0),
        ("evaluate_every", -1),
        ("checkpoint_every", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("device", "gpu"),
        ("device", "mps"),
        ("device", "cpu:1"),
        ("device", "cuda:"),
        ("devices", 0),
    ],
)
def test_a_value_out_of_range_is_an_error_naming_the_setting(name, value):
    with pytest.raises(ValueError, match=rf"\n{name}(\.\S+)?\n"):
        TrainingSettings(**{name: value})


def test_an_index_names_one_device():
    assert TrainingSettings(device="cuda:1").device_index == 1
    assert TrainingSettings(device="cuda").device_index is None


def test_the_trajectory_leaves_out_what_only_concerns_watching():
    watched = TrainingSettings(log_every=1, evaluate_every=5, checkpoint_every=7, device="cpu")
    assert watched.trajectory() == TrainingSettings().trajectory()
    assert watched.trajectory() != TrainingSettings(learning_rate=2e-4).trajectory()


def test_gradient_clipping_can_be_off():
    assert TrainingSettings(gradient_clip=None).gradient_clip is None

import numpy as np
import pytest
import torch
from torch import nn

from ovparts_lib.training import ParameterGroupError, TrainingSettings
from ovparts_lib.training.optimisers import build_optimiser, check_gradients, set_learning_rate


class TwoLayers(nn.Module):
    def __init__(self, groups):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 2, bias=False)
        self.groups = groups

    def parameter_groups(self, weight_decay):
        return self.groups(self, weight_decay)


def both(model, weight_decay):
    return [
        {"params": model.first.parameters(), "weight_decay": weight_decay, "lr_multiplier": 0.01},
        {"params": model.second.parameters(), "weight_decay": 0.0},
    ]


def adamw(values, gradients, rates, decay):
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), in float64."""
    first, second = np.zeros_like(values), np.zeros_like(values)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        values = values - rate * decay * values - rate * step
    return values


def test_adamw_agrees_with_its_formula_for_each_group_and_scheduled_rate():
    settings = TrainingSettings(iterations=4, learning_rate=1e-2, weight_decay=0.1, power=0.9)
    model = TwoLayers(both).double()
    optimiser = build_optimiser(model, settings)
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    generator = np.random.default_rng(0)
    gradients = {name: generator.normal(size=(4, *p.shape)) for name, p in model.named_parameters()}
    for step in range(4):
        set_learning_rate(optimiser, settings, step)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(gradients[name][step])
        optimiser.step()
    scheduled = [1e-2 * (1 - step / 4) ** 0.9 for step in range(4)]
    for name, parameter in model.named_parameters():
        multiple, decay = (0.01, 0.1) if name.startswith("first") else (1.0, 0.0)
        expected = adamw(before[name], gradients[name], [multiple * rate for rate in scheduled], decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-10)


def test_a_group_may_train_at_a_multiple_of_the_rate():
    first = {"lr_multiplier": 5e-3}
    model = TwoLayers(lambda m, decay: [{"params": m.first.parameters(), **first}, {"params": [m.second.weight]}])
    optimiser = build_optimiser(model, TrainingSettings(learning_rate=1e-3))
    assert [group["lr"] for group in optimiser.param_groups] == [5e-6, 1e-3]
    assert set_learning_rate(optimiser, TrainingSettings(learning_rate=1e-3, iterations=10), 5) == 1e-3 * 0.5**0.9
    assert [group["lr"] for group in optimiser.param_groups] == [5e-6 * 0.5**0.9, 1e-3 * 0.5**0.9]


@pytest.mark.parametrize(
    ("groups", "frozen", "message"),
    [
        (lambda m, d: [{"params": m.first.parameters()}], [], r"each trainable parameter once.*not so: second.weight"),
        (lambda m, d: [{"params": m.parameters()}], ["first.bias"], r"and nothing else; not so: first.bias"),
        (
            lambda m, d: [{"params": m.parameters()}, {"params": [m.second.weight]}],
            [],
            r"once, .*not so: second.weight",
        ),
        (lambda m, d: [], ["first.bias", "first.weight", "second.weight"], r"no parameter of the model is trainable"),
    ],
)
def test_wrong_groups_are_an_error_naming_the_parameter(groups, frozen, message):
    model = TwoLayers(groups)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    with pytest.raises(ParameterGroupError, match=message):
        build_optimiser(model, TrainingSettings())


def test_a_parameter_without_gradient_is_named():
    model = TwoLayers(both)
    model.first(torch.ones(1, 3)).sum().backward()
    with pytest.warns(UserWarning, match=r"1 trainable parameters have no part in the loss: second.weight"):
        check_gradients(model, distributed=False)
    with pytest.raises(ParameterGroupError, match=r"second\.weight; freeze them"):
        check_gradients(model, distributed=True)

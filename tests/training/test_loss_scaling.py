"""Float16 with a loss scaler, here on the CPU, where ``launch`` would refuse the precision for being slow."""

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments import LightningEnvironment

from ovparts_lib.training import NonFiniteLossError, TrainingSettings, train
from ovparts_lib.training.checkpoint_files import newest_checkpoint, read_checkpoint
from tests.training.toy import ToyModel, toy_loader


def float16(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler), LightningEnvironment()]
    return Fabric(accelerator="cpu", devices=1, plugins=plugins)


def run(folder, scale, iterations=30, stop=None, model=None):
    settings = TrainingSettings(
        iterations=30, batch_size=4, learning_rate=1e-2, log_every=1, checkpoint_every=1, evaluate_every=1, device="cpu"
    )
    weights = {}

    def evaluate(model, step):
        weights[step] = model.head.weight.detach().clone()
        if step == stop:
            raise RuntimeError("stopped here")
        return {}

    model = ToyModel() if model is None else model
    history = train(model, toy_loader(), settings, run_dir=folder, evaluate=evaluate, fabric=float16(scale))
    return history, weights, model


def test_an_overflow_leaves_the_update_out_and_training_goes_on(tmp_path):
    history, weights, _ = run(tmp_path, 2.0**30)
    overflowed = history["gradient_norm"].isna()
    skipped = history["step"][overflowed].tolist()
    assert skipped[:3] == [1, 2, 3]
    assert 3 < len(skipped) < 25
    assert torch.equal(weights[1], ToyModel().head.weight)
    for step in range(2, 31):
        assert torch.equal(weights[step], weights[step - 1]) == (step in skipped), step
    assert history["loss"].notna().all()


def test_the_scale_is_part_of_the_state(tmp_path):
    _, _, whole = run(tmp_path / "whole", 2.0**30)
    with pytest.raises(RuntimeError, match="stopped here"):
        run(tmp_path / "stopped", 2.0**30, stop=17)
    saved = read_checkpoint(newest_checkpoint(tmp_path / "stopped" / "checkpoints"))
    assert saved["step"] == 17
    assert saved["precision"]["scale"] < 2.0**30
    _, _, resumed = run(tmp_path / "stopped", 2.0**30)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())


def test_a_gradient_that_is_not_finite_without_any_scale_stops_training(tmp_path):
    class Broken(ToyModel):
        def loss(self, batch):
            return {**super().loss(batch), "loss_root": (self.head.weight * 0).sum().sqrt()}

    with pytest.raises(NonFiniteLossError, match="before update 5: gradient_norm is nan"):
        run(tmp_path, 2.0**4, model=Broken())

import random
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ovparts_lib.training import TrainingSettings, train
from ovparts_lib.training.checkpoint_files import newest_checkpoint
from tests.training.toy import ToyLoader, ToyModel, ToyPictures, ToySampler, collate, toy_loader


def settings(**changes):
    quick = {"iterations": 12, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 5, "device": "cpu"}
    return TrainingSettings(**{**quick, **changes})


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_loop_equals_plain_torch_written_out(tmp_path, clip):
    model = ToyModel()
    history = train(model, toy_loader(), settings(gradient_clip=clip, seed=5, log_every=1), run_dir=tmp_path)

    reference, batches = ToyModel(), list(islice(toy_loader(), 12))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    decayed, plain = reference.parameter_groups(1e-4)
    optimiser = torch.optim.AdamW([decayed, plain], lr=1e-2)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=12, power=0.9)
    norms = []
    for batch in batches:
        optimiser.zero_grad()
        sum(reference.loss(batch).values()).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(reference.parameters(), clip or torch.inf).item())
        optimiser.step()
        schedule.step()
    # Torch's scheduler multiplies rates up from step to step and so rounds differently.
    assert_same(weights(model), weights(reference), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(history["gradient_norm"], norms, rtol=1e-5)
    if clip is not None:
        assert min(norms) > clip, "clipping was not put to the test"


def test_micro_batches_equal_one_large_batch(tmp_path):
    large, small = ToyModel(dropout=0.0), ToyModel(dropout=0.0)
    one = train(large, toy_loader(batch_size=12), settings(batch_size=12), run_dir=tmp_path / "large")
    many = train(small, toy_loader(batch_size=4), settings(accumulate=3), run_dir=tmp_path / "small")
    del large.calls, small.calls  # which counts calls, not steps
    assert_same(weights(large), weights(small), rtol=1e-4, atol=1e-6)
    for column in ("loss", "gradient_norm"):
        np.testing.assert_allclose(one[column], many[column], rtol=1e-4)


def test_the_history_holds_what_was_trained(tmp_path):
    history = train(ToyModel(), toy_loader(), settings(log_every=5), run_dir=tmp_path)
    assert history["step"].tolist() == [1, 5, 10, 12]
    np.testing.assert_allclose(history["loss"], history["losses/loss_class"] + history["losses/loss_size"])
    np.testing.assert_allclose(history["learning_rate"], [1e-2 * (1 - (s - 1) / 12) ** 0.9 for s in (1, 5, 10, 12)])
    assert (history["images_per_second"] > 0).all()
    assert (history["seconds"].diff().dropna() > 0).all()
    assert history["peak_memory_mib"].between(1, 1e6).all()
    assert newest_checkpoint(tmp_path / "checkpoints").name.startswith("step_00000012")


def test_evaluation_comes_at_its_steps_in_evaluation_mode_and_changes_nothing(tmp_path):
    seen = []

    def evaluate(model, step):
        seen.append((step, model.training, type(model)))
        torch.rand(3), random.random(), np.random.rand()
        return {"mIoU": step / 2, "unseen": float("nan")}

    watched, alone = ToyModel(), ToyModel()
    history = train(watched, toy_loader(), settings(evaluate_every=4), run_dir=tmp_path / "watched", evaluate=evaluate)
    train(alone, toy_loader(), settings(), run_dir=tmp_path / "alone")
    assert seen == [(4, False, ToyModel), (8, False, ToyModel), (12, False, ToyModel)]
    assert_same(weights(watched), weights(alone))
    evaluated = history.dropna(subset="evaluation/mIoU")
    assert evaluated["step"].tolist() == [4, 8, 12]
    assert evaluated["evaluation/mIoU"].tolist() == [2.0, 4.0, 6.0]
    assert evaluated["evaluation/unseen"].isna().all()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_given_back_in_the_mode_it_came_in(tmp_path, training):
    model = ToyModel().train(training)
    train(model, toy_loader(), settings(), run_dir=tmp_path)
    assert model.training is training


def test_frozen_weights_stay_and_the_seed_decides_the_rest(tmp_path):
    models = [ToyModel() for _ in range(3)]
    for number, (model, seed) in enumerate(zip(models, (1, 1, 2), strict=True)):
        train(model, toy_loader(), settings(seed=seed), run_dir=tmp_path / str(number))
    assert_same(weights(models[0]), weights(models[1]))
    assert not torch.equal(models[0].head.weight, models[2].head.weight)
    assert torch.equal(models[0].frozen.weight, ToyModel().frozen.weight)


def test_bfloat16_reaches_the_model_and_keeps_weights_in_float32(tmp_path):
    seen = []

    class Watching(ToyModel):
        def loss(self, batch):
            seen.append(self.head(torch.zeros(1, 6)).dtype)
            return super().loss(batch)

    model = Watching()
    train(model, toy_loader(), settings(iterations=2, precision="bf16-mixed"), run_dir=tmp_path)
    assert set(seen) == {torch.bfloat16}
    assert model.head.weight.dtype == torch.float32


def test_one_process_does_not_mind_the_cluster_it_runs_on(tmp_path, monkeypatch):
    job = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "notebook", "SLURM_JOB_ID": "1", "SLURM_PROCID": "2"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = train(ToyModel(), toy_loader(), settings(), run_dir=tmp_path)
    assert history["step"].iloc[-1] == 12


def test_a_loader_with_another_batch_size_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"batches of 8 on each of 1 devices, .* batch_size, .* is 4"):
        train(ToyModel(), toy_loader(batch_size=8), settings(), run_dir=tmp_path)


def test_a_loader_that_cannot_resume_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="a DataLoader cannot resume"):
        train(ToyModel(), DataLoader(ToyPictures(), 4, collate_fn=collate), settings(), run_dir=tmp_path)


def test_a_loader_made_for_another_rank_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"share of rank 1 of 2, but this process is rank 0 of 1"):
        train(ToyModel(), toy_loader(rank=1, world_size=2), settings(), run_dir=tmp_path)


def test_a_loader_that_ends_is_an_error(tmp_path):
    class Ending(ToySampler):
        def __iter__(self):
            yield from range(8)

    loader = ToyLoader(ToyPictures(), 4, sampler=Ending(37), collate_fn=collate)
    with pytest.raises(RuntimeError, match="ended after 2 batches; training needs an endless one"):
        train(ToyModel(), loader, settings(), run_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"), [({"device": "cuda"}, "finds no CUDA"), ({"precision": "16-mixed"}, "needs CUDA")]
)
def test_what_a_machine_without_cuda_cannot_do_is_said(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        train(ToyModel(), toy_loader(), settings(**change), run_dir=tmp_path)

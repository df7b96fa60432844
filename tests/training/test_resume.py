import signal
import threading
import warnings

import pytest
import torch

from ovparts_lib.processes import stoppable
from ovparts_lib.training import ResumeError, TrainingInterrupted, interruption, loop, read_log, train
from ovparts_lib.training.checkpoint_files import checkpoint_files, write_checkpoint
from tests.training.processes import SECONDS, start, wait_for_step
from tests.training.toy import ToyLoader, ToyModel, ToyPictures, toy_loader
from tests.training.train_toy import SlowModel, toy_settings

MEASURED = {"seconds", "images_per_second", "peak_memory_mib"}


def uninterrupted(folder, **changes):
    model = ToyModel()
    train(model, toy_loader(), toy_settings(**changes), run_dir=folder)
    return model


def assert_same_run(folder, model, reference_folder, reference):
    assert model.state_dict().keys() == reference.state_dict().keys()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    logs = [read_log(each / "log.jsonl") for each in (folder, reference_folder)]
    computed = [[{key: value for key, value in e.items() if key not in MEASURED} for e in log] for log in logs]
    assert computed[0] == computed[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, workers):
    process = start(tmp_path / "killed", "--workers", str(workers), "--pause", "0.01")
    wait_for_step(process, tmp_path / "killed", 17)
    process.kill()
    process.wait(SECONDS)  # not for its output: the loader's workers hold it open until they notice
    assert process.returncode == -signal.SIGKILL
    (*_, newest) = checkpoint_files(tmp_path / "killed" / "checkpoints")
    assert 0 < int(newest.name[5:13]) < 40

    resumed = ToyModel()
    history = train(resumed, toy_loader(workers=workers), toy_settings(), run_dir=tmp_path / "killed")
    assert history["step"].tolist() == list(range(1, 41))
    assert_same_run(tmp_path / "killed", resumed, tmp_path / "whole", uninterrupted(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_after_a_checkpoint_and_the_run_resumes(tmp_path, number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    model = SlowModel()
    loss = model.loss

    def signalling(batch):
        if model.calls == 20:  # in the middle of a step
            signal.raise_signal(number)
            # A cluster signals all processes of a job, and the one above passes it on: still one request.
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        return loss(batch)

    model.loss = signalling
    with pytest.raises(
        TrainingInterrupted, match=r"after step 11; everything is in .*step_00000011.*start it again"
    ) as e:
        train(model, toy_loader(), toy_settings(), run_dir=tmp_path / "stopped")
    assert e.value.signal_number == number
    assert isinstance(e.value, KeyboardInterrupt)
    assert e.value._render_traceback_() == [f"TrainingInterrupted: {e.value}"]  # all that a notebook shows
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before

    resumed = ToyModel()
    train(resumed, toy_loader(), toy_settings(), run_dir=tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", resumed, tmp_path / "whole", uninterrupted(tmp_path / "whole"))


def test_a_signal_during_an_evaluation_stops_it_at_once_and_it_is_made_up_for(tmp_path):
    evaluated = []

    def evaluate(model, step):
        if step == 20 and 20 not in evaluated:
            evaluated.append(step)
            signal.raise_signal(signal.SIGINT)
        evaluated.append(step)
        return {"mIoU": float(step)}

    settings = toy_settings(evaluate_every=10)
    with pytest.raises(TrainingInterrupted, match="after step 20"):
        train(ToyModel(), toy_loader(), settings, run_dir=tmp_path, evaluate=evaluate)
    first = train(ToyModel(), toy_loader(), settings, run_dir=tmp_path, evaluate=evaluate)
    assert evaluated == [10, 20, 20, 30, 40]
    again = train(ToyModel(), toy_loader(), settings, run_dir=tmp_path, evaluate=evaluate)
    assert evaluated == [10, 20, 20, 30, 40], "an evaluation in the log is not repeated"
    for history in (first, again):
        assert history.dropna(subset="evaluation/mIoU")["evaluation/mIoU"].tolist() == [10, 20, 30, 40]


def test_a_signal_while_the_last_checkpoint_is_written_is_not_lost(tmp_path, monkeypatch):
    def write(state, folder, step):
        if step == 40:
            signal.raise_signal(signal.SIGTERM)
        return write_checkpoint(state, folder, step)

    monkeypatch.setattr(loop, "write_checkpoint", write)
    with pytest.raises(TrainingInterrupted, match="after step 40"):
        uninterrupted(tmp_path)
    assert checkpoint_files(tmp_path / "checkpoints")[-1].name.startswith("step_00000040")


def test_ctrl_c_again_after_seconds_stops_at_once(monkeypatch):
    times = iter([0.0, 1.0, 9.0])
    monkeypatch.setattr(interruption.time, "monotonic", lambda: next(times))
    with pytest.raises(KeyboardInterrupt), interruption.Interruption() as asked:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert asked.signal_number == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.Interruption() as asked:
            signal.raise_signal(signal.SIGHUP)
        assert not asked.requested
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_works_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(uninterrupted(tmp_path, iterations=3)))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_a_finished_run_gives_its_weights_without_training(tmp_path):
    whole, again = uninterrupted(tmp_path), SlowModel()
    again.loss = None  # nothing may be computed
    history = train(again, toy_loader(), toy_settings(), run_dir=tmp_path)
    assert len(history) == 40
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_another_seed_does_not_go_on_from_the_run_before(tmp_path):
    uninterrupted(tmp_path, seed=1)
    with pytest.raises(ResumeError):
        uninterrupted(tmp_path, seed=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 2e-2}, r"learning_rate is 0\.02 now and was 0\.01"),
        ({"iterations": 80}, "iterations is 80 now and was 40"),
        ({"accumulate": 1, "seed": 3}, "accumulate is 1 now and was 2; seed is 3 now and was 0"),
        ({"gradient_clip": None}, r"gradient_clip is None now and was 0\.5"),
        ({"precision": "bf16-mixed"}, "precision is 'bf16-mixed' now and was '32-true'"),
    ],
)
def test_other_settings_are_an_error_naming_them(tmp_path, changes, message):
    uninterrupted(tmp_path)
    with pytest.raises(ResumeError, match=message):
        uninterrupted(tmp_path, **changes)


def test_what_only_concerns_watching_may_change(tmp_path):
    uninterrupted(tmp_path)
    uninterrupted(tmp_path, log_every=3, checkpoint_every=0, evaluate_every=9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.backbone.requires_grad_(False), r"not trained now but in the checkpoint: backbone.bias, .* \(2\)"),
        (lambda m: m.frozen.requires_grad_(True), r"trained now but not in the checkpoint: frozen.bias"),
        (lambda m: m.frozen.weight.data.mul_(2), "the frozen weights are not those the run began with"),
        (lambda m: setattr(m, "head", torch.nn.Linear(6, 3, bias=False)), "in the checkpoint: head.bias"),
    ],
)
def test_another_model_is_an_error_naming_the_difference(tmp_path, change, message):
    class Grouped(ToyModel):
        def parameter_groups(self, weight_decay):
            return [{"params": [p for p in self.parameters() if p.requires_grad], "weight_decay": weight_decay}]

    train(Grouped(), toy_loader(), toy_settings(), run_dir=tmp_path)
    changed = Grouped()
    change(changed)
    with pytest.raises(ResumeError, match=message):
        train(changed, toy_loader(), toy_settings(), run_dir=tmp_path)


def test_other_parameter_groups_are_an_error(tmp_path):
    class Faster(ToyModel):
        def parameter_groups(self, weight_decay):
            decayed, plain = super().parameter_groups(weight_decay)
            return [decayed, {**plain, "lr_multiplier": 10}]

    uninterrupted(tmp_path)
    with pytest.raises(ResumeError, match=r"learning_rate of parameter group 1 is 0\.1 now and was 0\.01"):
        train(Faster(), toy_loader(), toy_settings(), run_dir=tmp_path)


def test_other_data_are_an_error(tmp_path):
    uninterrupted(tmp_path)
    with pytest.raises(ResumeError, match="the stream had 37 samples, now 30"):
        train(ToyModel(), toy_loader(dataset=ToyPictures(30)), toy_settings(), run_dir=tmp_path)


def test_after_damage_the_run_goes_on_from_the_checkpoint_before(tmp_path):
    whole = uninterrupted(tmp_path)
    (*_, newest) = checkpoint_files(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = ToyModel()
    with pytest.warns(UserWarning, match="step_00000040.* is corrupt"):
        history = train(resumed, toy_loader(), toy_settings(), run_dir=tmp_path)
    assert history["step"].tolist() == list(range(1, 41))
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_workers_end_with_the_training(tmp_path):
    loader = toy_loader(workers=2)
    assert isinstance(loader, ToyLoader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(ToyModel(), loader, toy_settings(iterations=2), run_dir=tmp_path)
    assert not torch.multiprocessing.active_children()

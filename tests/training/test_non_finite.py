import json

import pytest
import torch

from ovparts_lib.training import NonFiniteLossError, TrainingSettings, train
from ovparts_lib.training.non_finite import as_plain_data
from ovparts_lib.training.randomness import set_random_state
from tests.training.toy import WORDS, ToyModel, toy_loader

SETTINGS = TrainingSettings(iterations=9, batch_size=4, accumulate=2, learning_rate=1e-2, log_every=1, device="cpu")


class Failing(ToyModel):
    """Fails in the second micro-batch of the fourth step, either in the loss or only in its gradient."""

    def __init__(self, how):
        super().__init__()
        self.how, self.before = how, None

    def loss(self, batch):
        if self.calls % 2 == 0:
            self.before = {name: p.detach().clone() for name, p in self.named_parameters()}
        terms = super().loss(batch)
        if self.calls == 8 and self.how == "gradient":
            return {**terms, "loss_root": (self.head.weight * 0).sum().sqrt()}  # 0, with an infinite slope
        if self.calls == 8:
            return {**terms, "loss_root": terms["loss_size"] * float(self.how)}
        return {**terms, "loss_root": terms["loss_size"] * 0}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "loss_root is nan, gradient_norm is nan"),
        ("inf", "loss_root is inf"),
        ("gradient", "gradient_norm is nan"),
    ],
)
def test_training_stops_before_the_update(tmp_path, how, message):
    model = Failing(how)
    with pytest.raises(NonFiniteLossError, match=f"before update 4: .*{message}"):
        train(model, toy_loader(), SETTINGS, run_dir=tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, model.before[name]), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_the_evidence_lets_the_step_be_computed_again(tmp_path):
    with pytest.raises(NonFiniteLossError) as caught:
        train(Failing("nan"), toy_loader(), SETTINGS, run_dir=tmp_path)
    (path,) = (tmp_path / "non_finite").iterdir()
    assert str(path) in str(caught.value)
    evidence = torch.load(path, weights_only=True)
    assert evidence["step"] == 4
    assert [len(batch["image_ids"]) for batch in evidence["batches"]] == [4, 4]
    assert evidence["batches"][0]["vocabulary"]["classes"] == list(WORDS.classes)

    again = Failing("nan")
    again.load_state_dict(evidence["model"])
    again.calls.fill_(6)
    set_random_state(evidence["random"])
    losses = [again.loss(batch) for batch in evidence["batches"]]
    assert losses[1]["loss_root"].isnan()
    for name in ("loss_class", "loss_size"):
        assert [loss[name].item() for loss in losses] == [loss[name].item() for loss in evidence["losses"]]


def test_evidence_that_cannot_be_saved_does_not_hide_the_loss(tmp_path):
    (tmp_path / "non_finite").write_text("in the way")
    with pytest.raises(NonFiniteLossError, match=r"loss_root is nan.*could not be saved to .*non_finite"):
        train(Failing("nan"), toy_loader(), SETTINGS, run_dir=tmp_path)


def test_plain_data_holds_nothing_that_would_need_code_to_read(tmp_path):
    data = {"words": WORDS, "pair": (1, 2.5), "names": {"b", "a"}, "kind": ToyModel, "none": None}
    torch.save(as_plain_data(data), tmp_path / "data.pt")
    read = torch.load(tmp_path / "data.pt", weights_only=True)
    assert read["words"]["objects"] == ["dog", "car"]
    assert read["words"]["unseen_objects"] == ["car", "dog"]
    assert (read["pair"], read["names"], read["none"]) == ([1, 2.5], ["a", "b"], None)

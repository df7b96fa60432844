import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ovparts_lib.training import history_frame, read_log
from ovparts_lib.training.log import TrainingLog


def train_line(step):
    return {"step": step, "loss": 1 / step, "losses": {"loss_sem_seg": 1 / step}}


def test_the_log_is_one_json_object_a_line(tmp_path):
    training_log = TrainingLog(tmp_path / "log.jsonl", 0)
    training_log.write(train_line(1))
    training_log.write({"step": 1, "evaluation": {"mIoU": np.float32(0.5), "unseen": math.nan}})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 1.0, "losses": {"loss_sem_seg": 1.0}},
        {"step": 1, "evaluation": {"mIoU": 0.5, "unseen": None}},
    ]
    assert read_log(tmp_path / "log.jsonl") == [json.loads(line) for line in lines]


def test_a_resumed_run_rewrites_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    training_log = TrainingLog(path, 0)
    for step in (1, 2, 3, 4):
        training_log.write(train_line(step))
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # the process was killed here
    resumed = TrainingLog(path, 2)
    resumed.write(train_line(3))
    assert [entry["step"] for entry in read_log(path)] == [1, 2, 3]
    assert resumed.history()["step"].tolist() == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_the_history_has_one_row_for_each_step():
    entries = [train_line(2), {"step": 2, "evaluation": {"mIoU": 0.5}}, train_line(4), {"step": 1, "loss": 3.0}]
    frame = history_frame(entries)
    assert frame["step"].tolist() == [1, 2, 4]
    assert frame["loss"].tolist() == [3.0, 0.5, 0.25]
    assert frame["evaluation/mIoU"].fillna(-1).tolist() == [-1, 0.5, -1]
    assert history_frame([]).columns.tolist() == ["step"]


@pytest.mark.parametrize("line", [b'{"st', b"\xff\x00\xfe", b"3", b"{}", b'{"step": "2"}', b"[" * 100_000, b""])
def test_a_damaged_line_is_left_out_and_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.warns(UserWarning, match=r"log\.jsonl: damaged and left out: line 2$"):
        resumed = TrainingLog(path, 3)
    resumed.write(train_line(4))
    assert [entry["step"] for entry in read_log(path)] == [1, 3, 4]


def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
    training_log = TrainingLog(tmp_path / "log.jsonl", 0)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"the log .*log\.jsonl could not be written: No space left on device"):
        training_log.write(train_line(1))

import errno
import subprocess
import sys

import pytest
import torch

from ovparts_lib.training.checkpoint_files import (
    CheckpointWriteError,
    CorruptCheckpointError,
    checkpoint_files,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)

CONTENT = {"step": 3, "model": {"weight": torch.arange(100_000.0)}, "nothing": None}


def test_what_is_read_is_what_was_written(tmp_path):
    path = write_checkpoint(CONTENT, tmp_path, 3)
    assert newest_checkpoint(tmp_path) == path
    content = read_checkpoint(path)
    assert content["step"] == 3
    assert torch.equal(content["model"]["weight"], CONTENT["model"]["weight"])


def test_the_last_two_are_kept(tmp_path):
    for step in (5, 10, 100, 1_000):
        write_checkpoint({"step": step}, tmp_path, step)
    assert [read_checkpoint(path)["step"] for path in checkpoint_files(tmp_path)] == [100, 1_000]


def test_a_step_written_again_replaces_the_first(tmp_path):
    write_checkpoint({"step": 4}, tmp_path, 4)
    write_checkpoint({"step": 5}, tmp_path, 5)
    write_checkpoint({"step": 5, "second": True}, tmp_path, 5)
    assert [read_checkpoint(path) for path in checkpoint_files(tmp_path)] == [{"step": 4}, {"step": 5, "second": True}]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "emptied"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    good, bad = (write_checkpoint({**CONTENT, "step": step}, tmp_path, step) for step in (1, 2))
    data = bytearray(bad.read_bytes())
    if damage == "one bit":
        data[len(data) // 2] ^= 1
    bad.write_bytes({"truncated": data[: len(data) // 2], "one bit": data, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match=f"{bad.name} is corrupt; set aside as .*going back to the one before"):
        assert newest_checkpoint(tmp_path) == good
    assert newest_checkpoint(tmp_path) == good
    assert bad.with_name(f"{bad.name}.corrupt").exists()


def test_when_none_is_intact_it_says_so(tmp_path):
    path = write_checkpoint(CONTENT, tmp_path, 1)
    path.write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning), pytest.raises(CorruptCheckpointError, match=r"no checkpoint in .* is intact"):
        newest_checkpoint(tmp_path)
    with pytest.raises(CorruptCheckpointError, match="--again"):
        newest_checkpoint(tmp_path)


def test_no_folder_is_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None


def test_what_a_killed_writer_left_is_removed(tmp_path):
    good = write_checkpoint(CONTENT, tmp_path, 1)
    leftover = tmp_path / ".step_00000002-0123456789abcdef.pt.x.part"
    leftover.write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == good
    assert not leftover.exists()


LIMITED = """
import resource, sys, torch
from pathlib import Path
from ovparts_lib.training.checkpoint_files import CheckpointWriteError, write_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_checkpoint({"weight": torch.zeros(100_000)}, Path(sys.argv[1]), 2)
except CheckpointWriteError as error:
    print(error.errno, error)
"""


def test_a_file_system_that_refuses_leaves_the_checkpoint_before(tmp_path):
    good = write_checkpoint(CONTENT, tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(errno.EFBIG)), done.stdout + done.stderr
    for fact in (str(tmp_path), "step 2", "it needs 40", f"{good.name}, is intact", "Make room and resume"):
        assert fact in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert newest_checkpoint(tmp_path) == good


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    good = write_checkpoint(CONTENT, tmp_path, 1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointWriteError, match=r"No space left on device; it needs 40\d,\d\d\d bytes") as caught:
        write_checkpoint(CONTENT, tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointWriteError, match=r"could not be written to .*file/checkpoints: Not a directory"):
        write_checkpoint(CONTENT, tmp_path / "file" / "checkpoints", 2)

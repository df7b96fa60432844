import resource
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ovparts_lib.checkpoints.native import (
    WeightsNotSavedError,
    load_weights,
    read_metadata,
    save_weights,
    within_its_file,
)
from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip

METADATA = {"system": "test", "size": {"width": 3, "layers": [1, 2]}}


def test_what_is_saved_is_read_again(tmp_path):
    module, path = nn.Linear(3, 2), tmp_path / "new" / "folder" / "w.safetensors"
    assert save_weights(module, path, METADATA) == path
    state, metadata = load_weights(path, system="test")
    assert metadata == METADATA
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def test_it_is_an_ordinary_safetensors_file(tmp_path):
    state = {"a": torch.randn(4, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    save_weights(state, tmp_path / "w", {})
    assert torch.equal(load_file(tmp_path / "w")["a"], state["a"])
    assert load_file(tmp_path / "w")["b"].dtype == torch.bfloat16


def test_files_of_other_origin_or_system_are_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "theirs.safetensors", {"system": "test"})
    torch.save({"a": torch.ones(2)}, tmp_path / "theirs.pth")
    save_weights({"a": torch.ones(2)}, tmp_path / "ours.safetensors", METADATA)
    for name in ("theirs.safetensors", "theirs.pth"):
        assert read_metadata(tmp_path / name) is None
        with pytest.raises(CheckpointError, match="not written by this workbook"):
            load_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="weights of 'test', not of 'clipseg'"):
        load_weights(tmp_path / "ours.safetensors", system="clipseg")


@pytest.fixture
def small_disk():
    """No file may grow beyond 64 KiB while the test runs, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_the_old_file_survives(tmp_path, small_disk):
    path = tmp_path / "w.safetensors"
    save_weights({"a": torch.ones(10)}, path, METADATA)
    with pytest.raises(WeightsNotSavedError, match=r"weights not saved to .*w.safetensors.*unchanged"):
        save_weights({"a": torch.zeros(100_000)}, path, METADATA)
    assert torch.equal(load_weights(path)[0]["a"], torch.ones(10))
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsNotSavedError, match="weights not saved to"):
        save_weights({"a": torch.ones(1)}, tmp_path / "file" / "w.safetensors", {})


def test_equal_weights_are_equal_files(tmp_path):
    metadata = {f"key_{number}": number for number in range(20)}
    for name in ("a", "b"):
        save_weights({f"t{n}": torch.full((3,), float(n)) for n in range(9)}, tmp_path / name, metadata)
    code = (
        "import sys, torch; from ovparts_lib.checkpoints.native import save_weights\n"
        "save_weights({f't{n}': torch.full((3,), float(n)) for n in reversed(range(9))}, sys.argv[1],"
        " {f'key_{n}': n for n in reversed(range(20))})"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "c"], check=True)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    assert read_metadata(tmp_path / "a") == metadata


def test_an_odd_description_is_an_error_naming_the_file(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w", {"format": "ovparts 1", "system": "{"})
    with pytest.raises(CheckpointError, match="w: its description is damaged"):
        read_metadata(tmp_path / "w")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"vision_layers": 1_000_000}, "describes a model many times larger than the file"),
        ({"vision_width": 10**9, "text_width": 10**9}, "describes a model many times larger|fits no model"),
        ({"vision_heads": 0}, "fits no model"),
        ({"vision_layers": "many"}, "fits no model"),
        ({"colour": "blue"}, "fits no model"),
    ],
)
def test_a_description_that_its_tensors_do_not_bear_out_is_not_built(tmp_path, stated, said):
    size = asdict(MINIATURE) | stated
    save_weights({"a": torch.ones(3)}, tmp_path / "w.safetensors", {"system": "clip", "size": size})
    with pytest.raises(CheckpointError, match=said), within_its_file(tmp_path / "w.safetensors"):
        build_clip(ClipSize(**size))


KILLED_WHILE_WRITING = """
import os, pathlib, signal, sys
import torch
from ovparts_lib.checkpoints import native
def die(*arguments): os.kill(os.getpid(), signal.SIGKILL)
moments = {"half": (native, "memoryview"), "whole": (os, "fsync"), "named": (pathlib.Path, "replace")}
setattr(*moments[sys.argv[2]], die)
native.save_weights({"a": torch.full((9000,), 2.0)}, sys.argv[1], {"system": "test"})
"""


@pytest.mark.parametrize("when", ["half", "whole", "named"])
def test_a_kill_while_weights_are_written_leaves_the_old_ones(tmp_path, when):
    path = tmp_path / "w.safetensors"
    save_weights({"a": torch.ones(9000)}, path, METADATA)
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, path, when])
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2
    assert (load_weights(path)[0]["a"] == 1).all()
    save_weights({"a": torch.full((9000,), 2.0)}, path, METADATA)
    assert (load_weights(path)[0]["a"] == 2).all() and [file.name for file in tmp_path.iterdir()] == [path.name]

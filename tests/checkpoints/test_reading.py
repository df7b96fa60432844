import errno
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ovparts_lib.checkpoints import native
from ovparts_lib.checkpoints.reading import (
    CheckpointError,
    LoadReport,
    file_hash,
    load_strictly,
    read_tensors,
    weights_file,
)

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(2), "half": torch.ones(3, dtype=torch.float16)}


def assert_same(found, expected=STATE):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


class Payload:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_safetensors_whatever_the_suffix(tmp_path, suffix):
    save_file(STATE, tmp_path / f"w.{suffix}")
    assert_same(read_tensors(tmp_path / f"w.{suffix}"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_files_of_torch_old_and_new_plain_and_wrapped(tmp_path, zipped, wrap):
    torch.save(wrap(STATE), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(tmp_path / "w.pth"))


def test_a_file_of_detectron2_with_everything_it_has(tmp_path):
    optimiser = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    content = {
        "model": OrderedDict(STATE),
        "optimizer": optimiser.state_dict(),
        "scheduler": {"base_lrs": [np.float64(1e-4)], "last_epoch": np.int64(3), "flag": np.bool_(True)},
        "iteration": 19999,
    }
    torch.save(content, tmp_path / "model_final.pth")
    assert_same(read_tensors(tmp_path / "model_final.pth"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_in_the_hubs_layout(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else torch.save(STATE, tmp_path / name)
    assert weights_file(tmp_path) == tmp_path / name
    assert_same(read_tensors(tmp_path))


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        self.table = nn.Parameter(torch.randn(2, 5).half().t())  # not contiguous, as some of OpenAI's are
        self.shared = self.layers[0].weight
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) @ self.table.float().t() + self.shared.sum()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path, module = tmp_path_factory.mktemp("archive") / "ViT-B-16.pt", Scripted()
    torch.jit.save(torch.jit.script(module), path)
    return path, module.state_dict()


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")


def test_torchscript_is_read_without_its_program(archive, monkeypatch):
    path, state = archive
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: pytest.fail("its program was loaded"))
    assert_same(read_tensors(path), dict(state))


def test_the_hash_is_that_of_sha256sum(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert file_hash(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_execute_code_is_refused_and_executes_nothing(tmp_path, zipped):
    made, path = tmp_path / "made", tmp_path / "evil.pth"
    torch.save({"model": STATE, "extra": Payload(made)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil.pth was not loaded.*could execute code"):
        read_tensors(path)
    assert not made.exists()


def test_a_bare_pickle_is_refused_too(tmp_path):
    made, path = tmp_path / "made", tmp_path / "evil.bin"
    path.write_bytes(pickle.dumps(Payload(made), 2))
    with pytest.raises(CheckpointError, match=r"evil.bin was not loaded"):
        read_tensors(path)
    assert not made.exists()


def test_an_archive_whose_description_would_execute_code_is_refused(tmp_path, archive):
    made, path = tmp_path / "made", tmp_path / "evil.pt"
    with zipfile.ZipFile(archive[0]) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = pickle.dumps(Payload(made), 2) if name.endswith("/data.pkl") else source.read(name)
            target.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"evil.pt was not loaded.*mkdir"):
        read_tensors(path)
    assert not made.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "legacy", "torchscript"])
@pytest.mark.parametrize("kept", [0.3, 0.98])
def test_truncated_files_are_refused(tmp_path, archive, kind, kept):
    path = tmp_path / f"w.{kind}"
    if kind == "torchscript":
        path.write_bytes(archive[0].read_bytes())
    elif kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=path.name):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "web page"),
        (b"\n <html></html>", "web page"),
        (b"hello, I am a text file", "neither safetensors, nor"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"w.pth .*{message}"):
        read_tensors(tmp_path / "w.pth")


def test_missing_files_and_empty_folders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such weight file: .*nowhere.pth"):
        read_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"holds none of model.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"w": [1, 2]}, {3: torch.ones(2)}, torch.ones(3)])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w.pth (is|holds) no state dict"):
        read_tensors(tmp_path / "w.pth")


# --- strict loading -------------------------------------------------------------------------------------------------


def upper(state):
    """The module's names in capitals, its weight transposed: a key map of views."""
    return {name.upper(): tensor.T if name == "weight" else tensor for name, tensor in state.items()}


def test_loading_writes_through_the_key_map():
    module = nn.Linear(3, 2)
    state = {
        "WEIGHT": torch.arange(6.0).view(3, 2).double(),
        "BIAS": torch.tensor([1.0, 2.0]),
        "EXTRA.ids": torch.ones(1),
    }
    report = load_strictly(
        module, state, source="w.pth", kind="test", names=upper, drop=lambda name: name.endswith(".ids")
    )
    assert torch.equal(module.weight, torch.arange(6.0).view(3, 2).T)
    assert torch.equal(module.bias, torch.tensor([1.0, 2.0]))
    assert (report.loaded, report.dropped, report.initialised) == (("WEIGHT", "BIAS"), ("EXTRA.ids",), ())
    assert (report.kind, report.source) == ("test", "w.pth")


def test_a_bad_state_names_all_that_is_wrong_and_changes_nothing():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    state["0.weight"] = torch.zeros(3, 2)
    del state["1.bias"]
    state |= {f"more.{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(CheckpointError) as error:
        load_strictly(module, state, "w.pth")
    assert str(error.value) == (
        "w.pth (weights) does not fit the model: 1 missing: 1.bias; "
        "7 unexpected: more.0, more.1, more.2, more.3, more.4 and 2 more; "
        "1 misshapen: 0.weight is (3, 2) in the file, (2, 3) in the model"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_whole_numbers_do_not_stand_for_fractions_nor_the_reverse():
    module = nn.BatchNorm1d(2)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state["weight"] = torch.tensor([3, 4])
    state["num_batches_tracked"] = torch.tensor(0.5)
    with pytest.raises(CheckpointError) as error:
        load_strictly(module, state, "w.pth")
    assert str(error.value) == (
        "w.pth (weights) does not fit the model: 2 misshapen: weight is int64 in the file, float32 in the model, "
        "num_batches_tracked is float32 in the file, int64 in the model"
    )
    assert torch.equal(module.weight, torch.ones(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_and_named(value):
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    state = {"weight": torch.zeros(2, 3, dtype=torch.float16), "bias": torch.tensor([0.0, value])}
    with pytest.raises(CheckpointError, match=r"w.pth \(weights\) holds NaN or infinity in bias; "):
        load_strictly(module, state, "w.pth")
    assert torch.equal(module.weight, before)


def test_names_the_file_lacks_by_design_keep_their_values():
    module = nn.Linear(3, 2)
    bias = module.bias.detach().clone()
    report = load_strictly(module, {"weight": torch.zeros(2, 3)}, "w", without=("bias",))
    assert torch.equal(module.bias, bias)
    assert not module.weight.any()
    assert report.initialised == ("bias",)
    with pytest.raises(CheckpointError, match="1 unexpected: bias"):
        load_strictly(module, dict(module.state_dict()), "w", without=("bias",))


# --- files that were damaged, made to harm, or wrapped ---------------------------------------------------------------


def test_legacy_files_cut_anywhere_are_called_damaged_or_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"w\.pth"):
            read_tensors(path)


@pytest.mark.parametrize(
    "description",
    [
        b"\x80\x02.",
        b"\x80\x02]q\x00h\x00a.",
        pickle.dumps([1, 2], 2),
        pickle.dumps({"a": "text"}, 2),
        b"\x80\x02c__torch__.A\nB\nq\x00)\x81q\x01}q\x02X\x01\x00\x00\x00ah\x01sb.",  # a module inside itself
    ],
)
def test_hostile_archives_of_torchscript_are_damaged_files(tmp_path, description):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", description)
        archive.writestr("w/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"w\.pt"):
        read_tensors(path)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="unpacks to 50,000,000 bytes"):
        read_tensors(path)


@pytest.mark.parametrize(
    "tensor", [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.empty(3, device="meta")]
)
def test_tensors_that_are_no_dense_numbers_are_refused_by_name(tmp_path, tensor):
    torch.save({"a": torch.ones(1), "odd": tensor}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"the tensor odd is .*not dense numbers"):
        read_tensors(tmp_path / "w.pth")


def test_a_tensor_that_repeats_few_numbers_without_end_is_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"the tensor a of shape \(1000000, 1000000\) repeats numbers"):
        read_tensors(tmp_path / "w.pth")


def test_other_zip_archives_are_not_called_damaged(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    with zipfile.ZipFile(tmp_path / "text.docx", "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    for name in ("arrays.npz", "text.docx"):
        with pytest.raises(CheckpointError, match=f"{name} is a zip archive, but none that torch.save"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_numbers_that_are_finite_only_in_the_file_are_refused(value):
    module = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 3), "bias": torch.tensor([0.0, value], dtype=torch.float64)}
    with pytest.raises(CheckpointError, match="NaN or infinity in bias"):
        load_strictly(module, state, "w.pth")
    with pytest.raises(CheckpointError, match="complex64 in the file, float32"):
        load_strictly(module, {**state, "bias": torch.zeros(2, dtype=torch.complex64)}, "w.pth")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model."])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_prefixes_of_wrappers_are_left_out(tmp_path, prefix, suffix):
    path, wrapped = tmp_path / f"w.{suffix}", {prefix + name: tensor for name, tensor in STATE.items()}
    save_file(wrapped, path) if suffix == "safetensors" else torch.save({"state_dict": wrapped}, path)
    assert_same(read_tensors(path))


@pytest.mark.parametrize("wrappers", [["model"], ["state_dict"], ["model_state_dict"], ["model", "state_dict"]])
def test_what_trainings_wrap_around_weights_is_taken_off(tmp_path, wrappers):
    content = STATE
    for wrapper in reversed(wrappers):
        content = {wrapper: content, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "w.pth")
    assert_same(read_tensors(tmp_path / "w.pth"))
    itself = {}
    itself["model"] = itself
    for hostile, message in ((itself, "its entry 'model' is of type dict"), ({}, "but a dict without entries")):
        torch.save(hostile, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=message):
            read_tensors(tmp_path / "w.pth")


def test_a_prefix_that_not_all_names_have_is_a_name(tmp_path):
    state = {"model.a": torch.ones(1), "head": torch.ones(2), "clip._orig_mod.b": torch.ones(3)}
    save_file(state, tmp_path / "w.safetensors")
    assert set(read_tensors(tmp_path / "w.safetensors")) == {"model.a", "head", "clip.b"}
    save_file({"a._orig_mod.b": torch.ones(1), "a.b": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="holds a tensor twice"):
        read_tensors(tmp_path / "w.safetensors")


def test_the_folder_of_a_run_stands_for_its_weights(tmp_path):
    (tmp_path / "params.yaml").write_text("notebook: 20_clipseg")
    with pytest.raises(CheckpointError, match="finish that run first"):
        weights_file(tmp_path)
    save_file(STATE, tmp_path / "weights.safetensors")
    assert weights_file(tmp_path) == tmp_path / "weights.safetensors"
    assert_same(read_tensors(tmp_path))


def test_a_file_that_the_system_does_not_let_us_read_is_not_called_damaged(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")  # names no file, as of a disk

    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "open", failing)
        with pytest.raises(CheckpointError, match=r"w\.safetensors cannot be read: Input/output error"):
            read_tensors(path)
    monkeypatch.setattr(native, "safe_open", failing)
    with pytest.raises(CheckpointError, match=r"w\.safetensors cannot be read: .*Input/output error"):
        native.read_metadata(path)


def test_a_report_says_in_one_line_what_was_loaded():
    report = LoadReport("a.pth", "CLIPSeg", ("x", "y"), dropped=("z",), initialised=("v", "w"))
    said = "CLIPSeg from a.pth: 2 tensors loaded; not needed: z; left at their initial values: v, w"
    assert str(report) == said

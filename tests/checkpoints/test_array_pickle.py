"""Pickles of arrays as detectron2 publishes backbones: read as data, and nothing else in them executed."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ovparts_lib.checkpoints.backbones import load_resnet_into
from ovparts_lib.checkpoints.reading import CheckpointError, read_tensors
from ovparts_lib.models.backbones.resnet import ResNet, ResNetSize

SIZE = ResNetSize((1, 1, 1, 2), 8, "deeplab", (2, 4))


def r_103(folder, protocol=2, **changes):
    """A small ``R-103.pkl`` and the backbone it is of."""
    torch.manual_seed(0)
    backbone = ResNet(SIZE)
    for buffer in backbone.buffers():
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    state = OrderedDict((name, tensor.numpy()) for name, tensor in backbone.state_dict().items())
    extra = {"stem.fc.weight": np.zeros((10, 32), np.float32), "res2.0.conv1.norm.num_batches_tracked": np.int64(7)}
    content = {"model": state | extra | changes, "__author__": "somebody", "matching_heuristics": True}
    path = folder / "R-103.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path, backbone


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_published_backbone_is_loaded_strictly(tmp_path, protocol):
    path, written = r_103(tmp_path, protocol)
    torch.manual_seed(1)
    backbone = ResNet(SIZE)
    report = load_resnet_into(backbone, path)
    assert report.kind == "ResNet of detectron2"
    assert set(report.dropped) == {"stem.fc.weight", "res2.0.conv1.norm.num_batches_tracked"}
    for name, tensor in written.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize(("numpys", "other"), [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")])
def test_either_numpy_may_have_written_it(tmp_path, numpys, other):
    path, written = r_103(tmp_path)
    path.write_bytes(path.read_bytes().replace(numpys, other))
    assert torch.equal(read_tensors(path)["stem.conv1.weight"], written.stem.conv1.weight)


def test_a_backbone_of_another_size_is_refused(tmp_path):
    path, _ = r_103(tmp_path)
    with pytest.raises(CheckpointError, match="misshapen"):
        load_resnet_into(ResNet(ResNetSize((1, 1, 1, 2), 16, "deeplab", (2, 4))), path)


class Payload:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_is_no_array_is_refused_and_not_executed(tmp_path, protocol):
    made = tmp_path / "made"
    path, _ = r_103(tmp_path, protocol, evil=Payload(made))
    with pytest.raises(CheckpointError, match=r"(?s)R-103.pkl was not loaded.*GLOBAL (posix|nt)\.mkdir is no array"):
        read_tensors(path)
    assert not made.exists()


def test_codecs_serve_for_bytes_alone(tmp_path):
    path = tmp_path / "codec.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(CheckpointError, match=r"codecs\.encode with 'rot13'"):
        read_tensors(path)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: content[:200], lambda content: b"\x80\x02" + bytes(50)]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path, _ = r_103(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"R-103.pkl is damaged or truncated"):
        read_tensors(path)


def test_arrays_of_objects_are_refused(tmp_path):
    path, _ = r_103(tmp_path, odd=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match=r"R-103.pkl"):
        read_tensors(path)

"""ResNets against torchvision's, and the shapes that DeepLab's stem and multi-grid give."""

import pytest
import torch
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from ovparts_lib.models.backbones.resnet import RESNET_50, RESNET_101C, ResNet, ResNetSize


def torchvisions_name(name):
    """Our name as torchvision's (the names of ImageNet's weights)."""
    if name.startswith("stem.conv1.norm."):
        return name.replace("stem.conv1.norm.", "bn1.")
    if name.startswith("stem."):
        return name.removeprefix("stem.")
    stage, block, conv, rest = name.split(".", 3)
    conv = "downsample" if conv == "shortcut" else conv
    if conv == "downsample":
        rest = rest.replace("norm.", "1.") if rest.startswith("norm.") else f"0.{rest}"
    elif rest.startswith("norm."):
        conv, rest = conv.replace("conv", "bn"), rest.removeprefix("norm.")
    return f"layer{int(stage[3]) - 1}.{block}.{conv}.{rest}"


def test_resnet_50_is_torchvisions():
    torch.manual_seed(0)
    theirs = resnet50(norm_layer=FrozenBatchNorm2d).eval()
    for name, buffer in theirs.named_buffers():
        buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else 0))
    ours, state = ResNet(RESNET_50).eval(), theirs.state_dict()
    ours.load_state_dict({name: state.pop(torchvisions_name(name)) for name in ours.state_dict()})
    assert set(state) == {"fc.weight", "fc.bias"}
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(pixels))))
        for level, found in enumerate(ours(pixels), start=1):
            expected = getattr(theirs, f"layer{level}")(expected)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_stem_and_multi_grid_of_the_c_variant():
    with torch.device("meta"):
        model = ResNet(RESNET_101C)
    assert model.stem.conv3.out_channels == 128
    assert [block.conv2.dilation for block in model.res5] == [(1, 1), (2, 2), (4, 4)]
    assert [block.conv2.stride for block in model.res5] == [(2, 2), (1, 1), (1, 1)]
    small = ResNet(ResNetSize((1, 1, 1, 2), 8, "deeplab", (2, 4)))
    assert [tuple(maps.shape[1:]) for maps in small(torch.randn(1, 3, 64, 64))] == [
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]


def test_sizes_that_do_not_exist():
    with pytest.raises(ValueError, match="should be 'plain' or 'deeplab'"):
        ResNetSize(stem="deep")
    with pytest.raises(ValueError, match="a dilation for each block of the last one"):
        ResNetSize(multi_grid=(1, 2))

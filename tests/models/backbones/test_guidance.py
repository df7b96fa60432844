"""Guidance backbones against torchvision's and timm's own forward passes."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from ovparts_lib.checkpoints.cost_aggregation import load_guidance_into
from ovparts_lib.models.backbones.guidance import (
    DinoGuidance,
    GuidanceSize,
    ResNetGuidance,
    SmallGuidance,
    build_guidance,
    resize_dinov2_positions,
)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """Torchvision's ResNet-101 with uneven statistics, and ours loaded from its file."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet101().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.2, 0.4)
            module.bias.data.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "resnet101.pth"
    torch.save(theirs.state_dict(), path)
    ours = ResNetGuidance()
    report = load_guidance_into(ours, path)
    assert report.initialised == ()
    return theirs, ours


@torch.no_grad()
def test_resnet_is_torchvisions(resnet):
    theirs, ours = resnet
    pixels = torch.randn(1, 3, 64, 96)
    maps = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(pixels))))
    expected = []
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3):
        maps = stage(maps)
        expected.insert(0, maps)
    for mine, other, channels in zip(ours(pixels, (4, 6)), expected, ours.channels, strict=True):
        assert mine.shape[1] == channels
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"features are \(4, 6\), the cost volume is \(5, 6\)"):
        ours(pixels, (5, 6))


def test_statistics_of_the_resnet_never_train(resnet):
    names = [name for name, _ in resnet[1].named_parameters()]
    assert len(names) == 94
    assert not any("bn" in name for name in names)


@torch.no_grad()
def test_dinov2_is_timms_at_the_size_it_was_trained_with(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    state = {"backbone.dinov2." + name: tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"model": {**state, "backbone.dinov2.mask_token": torch.zeros(1, 384)}}, tmp_path / "dinov2.pth")
    ours = DinoGuidance().eval()
    assert load_guidance_into(ours, tmp_path / "dinov2.pth").dropped == ("mask_token",)
    pixels = torch.randn(1, 3, 518, 518)
    expected = theirs.forward_features(pixels)[:, 1:].transpose(1, 2).reshape(1, 384, 37, 37)
    assert torch.allclose(ours.patch_tokens(pixels), expected, atol=1e-4)
    coarse, middle, fine = ours(pixels[..., :448, :448], (24, 24))
    assert (coarse.shape[-1], middle.shape[-1], fine.shape[-1]) == (24, 48, 96)


def test_positions_of_dinov2_follow_the_scale_factor():
    ramp = torch.arange(37.0).expand(37, 37)  # column number: on average, bicubic resampling keeps it
    table = torch.cat([torch.full((1, 1, 1), -5.0), ramp.reshape(1, -1, 1)], dim=1)
    resized = resize_dinov2_positions(table, (32, 32))
    assert resized[0, 0, 0] == -5
    rows = resized[0, 1:, 0].view(32, 32)
    expected = (torch.arange(32) + 0.5) * 37 / 32.1 - 0.5
    assert (rows[7] - expected)[3:-3].mean().abs() < 0.01
    by_size = (torch.arange(32) + 0.5) * 37 / 32 - 0.5
    assert (rows[7] - by_size)[3:-3].mean().abs() > 0.04
    assert resize_dinov2_positions(table, (37, 37)) is table


@torch.no_grad()
def test_small_guidance_joins_clips_tokens_in_place():
    torch.manual_seed(0)
    module = SmallGuidance((8, 6, 4), clip_width=5)
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randn(2, 17, 5)
    coarse, middle, fine = module(pixels, (4, 4), tokens)
    assert [maps.shape[1] for maps in (coarse, middle, fine)] == list(module.channels) == [13, 11, 9]
    assert (coarse.shape[-1], middle.shape[-1], fine.shape[-1]) == (4, 8, 16)
    expected = F.layer_norm(tokens[1, 1 + 4 * 2 + 3], (5,))
    assert torch.allclose(coarse[1, 8:, 2, 3], expected, atol=1e-5)


def test_backbones_by_name():
    assert build_guidance(GuidanceSize("none"), 768) is None
    assert build_guidance(GuidanceSize("small", clip_layer=3), 32).channels == (96, 64, 48)
    with pytest.raises(ValueError, match="'none', 'resnet101'"):
        GuidanceSize("resnet50")
    with pytest.raises(ValueError, match="patches of 14"):
        GuidanceSize("dinov2_vits14", 384)
    with pytest.raises(ValueError, match="takes no clip_layer"):
        GuidanceSize("resnet101", clip_layer=3)

"""Swin against timm's where both agree on windows, and on maps that need padding."""

import timm
import torch

from ovparts_lib.models.backbones.swin import Swin, SwinSize, shift_mask


def timms_names(state):
    """Our names as timm's: it merges patches at the beginning of a stage."""
    names = {}
    for name, tensor in state.items():
        if name.startswith("layers.") and ".downsample." in name:
            _, stage, rest = name.split(".", 2)
            name = f"layers_{int(stage) + 1}.{rest}"
        elif name.startswith("layers."):
            name = name.replace("layers.", "layers_", 1)
        names[name] = tensor
    return names


def test_stages_are_timms_where_windows_fit():
    torch.manual_seed(0)
    ours = Swin(SwinSize(24, (2, 2, 2), (1, 2, 4), window=4)).eval()
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        embed_dim=24,
        depths=(2, 2, 2),
        num_heads=(1, 2, 4),
        window_size=4,
        always_partition=True,
        features_only=True,
    ).eval()
    own = {name: tensor for name, tensor in ours.state_dict().items() if not name.startswith("norm")}
    missing, unexpected = theirs.load_state_dict(timms_names(own), strict=False)
    assert not unexpected
    assert all("relative_position_index" in name or "attn_mask" in name for name in missing)
    pixels = torch.randn(1, 3, 64, 64)
    for number, (found, expected) in enumerate(zip(ours(pixels), theirs(pixels), strict=True)):
        normed = ours.get_submodule(f"norm{number}")(expected).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, normed, rtol=1e-4, atol=1e-5)


def test_any_size_is_padded():
    model = Swin(SwinSize(16, (2, 2), (1, 2), window=3)).eval()
    maps = model(torch.randn(2, 3, 29, 45))
    assert [tuple(level.shape) for level in maps] == [(2, 16, 8, 12), (2, 32, 4, 6)]


def test_shift_mask_joins_what_was_joined_before_the_shift():
    mask = shift_mask(5, 6, 4, torch.device("cpu"))  # padded to 8 x 8, shifted by 2
    assert mask.shape == (4, 16, 16)
    where = torch.arange(64).view(8, 8)
    windows = where.view(2, 4, 2, 4).permute(0, 2, 1, 3).reshape(4, 16)
    region = lambda place: tuple(0 if side < 4 else 1 if side < 6 else 2 for side in divmod(place, 8))  # noqa: E731
    for window, places in zip(mask, windows.tolist(), strict=True):
        for row, asking in zip(window, places, strict=True):
            for value, asked in zip(row.tolist(), places, strict=True):
                assert value == (0 if region(asking) == region(asked) else -100)

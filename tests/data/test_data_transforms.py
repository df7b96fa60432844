import colorsys
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision import tv_tensors

from ovparts_lib.data.transforms import (
    CropUpTo,
    PadTo,
    PhotometricDistortion,
    add_brightness,
    multiply_contrast,
    multiply_saturation,
    training_transform,
)
from ovparts_lib.images import resize_image, resize_labels, shortest_edge_size
from tests.data.released_layout import GOLDEN, picture

SIDES = st.integers(1, 90)


def tensor(array):
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def sample_of(size, seed=0):
    """A picture whose label maps say which pixel is which: row and column of every source pixel."""
    rows, columns = (torch.arange(side, dtype=torch.uint8) for side in size)
    return {
        "image": tv_tensors.Image(tensor(picture(size, seed))),
        "part_map": tv_tensors.Mask(rows[:, None].expand(size).clone()),
        "object_map": tv_tensors.Mask(columns[None].expand(size).clone()),
        "image_id": "a string passes through",
    }


@pytest.mark.parametrize(
    ("size", "wanted"), [((375, 500), (352, 352)), ((60, 45), (800, 600)), ((31, 64), (64, 31)), ((9, 9), (9, 9))]
)
def test_resize_image_is_pils(size, wanted):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    expected = Image.fromarray(pixels).resize(wanted[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_image(tensor(pixels), wanted).permute(1, 2, 0).numpy(), np.array(expected))


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES)
def test_centre_rule_takes_the_pixel_under_the_centre(height, width, new_height, new_width):
    labels = torch.arange(height * width, dtype=torch.int32).reshape(height, width)
    resized = resize_labels(labels, (new_height, new_width))
    for row in (0, new_height // 3, new_height - 1):
        for column in range(new_width):
            source_row = math.floor(Fraction(2 * row + 1, 2) * Fraction(height, new_height))
            source_column = math.floor(Fraction(2 * column + 1, 2) * Fraction(width, new_width))
            assert resized[row, column] == source_row * width + source_column


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.sampled_from([("centre", "nearest-exact", 0.5), ("floor", "nearest", 0.0)]))
def test_rules_are_torchs_but_for_rounding_at_pixel_edges(old, new, names):
    rule, mode, offset = names
    labels = torch.arange(old).expand(3, -1)
    ours = resize_labels(labels, (5, new), rule)
    torchs = F.interpolate(labels[None, None].float(), (5, new), mode=mode)[0, 0].long()
    position = (np.arange(new) + offset) * old / new
    at_edge = torch.from_numpy(np.abs(position - np.round(position)) < 1e-4)
    assert ours.dtype == torch.int64 and torch.equal(ours[:, ~at_edge], torchs[:, ~at_edge])
    assert ((ours - torchs)[:, at_edge].abs() <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floor_rule_is_computed_in_the_type_asked_for(dtype):
    """Released mappers resize float64 maps, released models float32 ones: pixels differ where 352 come from 104."""
    labels = torch.arange(104).expand(3, -1)
    expected = F.interpolate(labels[None, None].to(dtype), (5, 352), mode="nearest")[0, 0].long()
    assert torch.equal(resize_labels(labels, (5, 352), "floor", released_dtype=dtype), expected)
    whole_numbers = torch.arange(352) * 104 // 352
    assert torch.equal(expected[0], whole_numbers) == (dtype == torch.float64)
    centre = resize_labels(labels, (5, 352), released_dtype=dtype)
    assert torch.equal(centre, resize_labels(labels, (5, 352)))


def test_released_partimagenet_transform_keeps_native_pixels():
    """Resize, crop, jitter and flip are discarded; padding cuts what is larger at right and bottom."""
    source = sample_of((50, 70))
    options = {"shortest_edge": 30, "crop": 20, "photometric": True, "flip": 1.0, "pad_size": 60, "ignore_label": 255}
    torch.manual_seed(0)
    sample = training_transform(**options, augmentation="discarded_as_released")(source)
    assert torch.equal(sample["image"][:, :50], source["image"][:, :, :60])
    assert torch.equal(sample["part_map"][:50], source["part_map"][:, :60])
    assert (sample["image"][:, 50:] == 128).all() and (sample["part_map"][50:] == 255).all()
    applied = training_transform(**options)(sample_of((50, 70)))
    assert (applied["part_map"] == 255).sum() == 60 * 60 - 20 * 20


@pytest.mark.parametrize("case", range(3))
def test_floor_rule_reproduces_the_released_double_resize(case):
    golden = np.load(GOLDEN / "double_resize.npz")
    label, mapper = (torch.from_numpy(golden[f"{name}_{case}"]) for name in ("label", "mapper"))
    assert torch.equal(resize_labels(label, tuple(mapper.shape), "floor"), mapper)
    evaluated = resize_labels(mapper, tuple(label.shape), "floor")
    np.testing.assert_array_equal(evaluated.numpy(), golden[f"evaluated_{case}"])


def test_centre_rule_undoes_an_enlargement():
    label = torch.randint(0, 116, (75, 100))
    size = shortest_edge_size(75, 100, 160, 267)
    assert torch.equal(resize_labels(resize_labels(label, size), (75, 100)), label)


def test_label_types_survive_and_bad_rules_do_not():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert resize_labels(torch.zeros(4, 4, dtype=dtype), (2, 3)).dtype == dtype
    with pytest.raises(ValueError, match="'centre' or 'floor', not 'nearest'"):
        resize_labels(torch.zeros(4, 4), (2, 2), "nearest")


@pytest.mark.parametrize(
    ("height", "width", "shortest", "longest", "expected"),
    [
        (375, 500, 800, 1333, (800, 1067)),  # stated for the released evaluation
        (75, 100, 160, 267, (160, 213)),  # golden mapper sizes
        (90, 60, 128, 154, (154, 103)),
        (50, 64, 64, 76, (59, 76)),
        (500, 334, 800, 1333, (1198, 800)),
        (100, 1000, 800, 1333, (133, 1333)),
        (1, 3000, 800, 1333, (1, 1333)),  # rounds to no pixel at all
    ],
)
def test_shortest_edge_size(height, width, shortest, longest, expected):
    assert shortest_edge_size(height, width, shortest, longest) == expected
    assert shortest_edge_size(width, height, shortest, longest) == expected[::-1]


def test_picture_and_labels_move_together():
    """After crop and flip, the label maps still name the source pixel that the picture shows."""
    source = sample_of((50, 70))
    transform = training_transform(shortest_edge=None, crop=20, flip=0.5)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        out = transform(source)
        rows, columns = out["part_map"].long(), out["object_map"].long()
        assert tuple(out["image"].shape) == (3, 20, 20) and rows.shape == (20, 20)
        assert torch.equal(out["image"].data, source["image"][:, rows, columns].data)
        assert out["image_id"] == "a string passes through"
        seen.add((int(rows[0, 0]), int(columns[0, 0]), bool(columns[0, 0] > columns[0, 1])))
    assert {flipped for _, _, flipped in seen} == {True, False} and len(seen) >= 7


def test_crop_is_even_and_spares_short_sides():
    source, starts = sample_of((10, 7)), []
    for seed in range(300):
        torch.manual_seed(seed)
        out = CropUpTo(8)(source)
        assert out["part_map"].shape == (8, 7) and tuple(out["image"].shape) == (3, 8, 7)
        starts.append(int(out["part_map"][0, 0]))
    assert set(starts) == {0, 1, 2} and min(starts.count(start) for start in (0, 1, 2)) > 70


def test_resize_draws_every_listed_size():
    transform = training_transform(shortest_edge=(16, 24, 32), longest_edge=40, flip=0)
    sizes = set()
    for seed in range(40):
        torch.manual_seed(seed)
        out = transform(sample_of((20, 30)))
        assert out["part_map"].shape == out["image"].shape[-2:]
        sizes.add(tuple(out["part_map"].shape))
    assert sizes == {(16, 24), (24, 36), (27, 40)}


def test_final_size_concerns_the_picture_alone():
    out = training_transform(shortest_edge=40, longest_edge=100, flip=0, final_size=35)(sample_of((20, 30)))
    assert tuple(out["image"].shape) == (3, 35, 35) and out["part_map"].shape == (40, 60)
    twice = resize_image(resize_image(sample_of((20, 30))["image"], (40, 60)), (35, 35))
    assert torch.equal(out["image"].data, twice)


@pytest.mark.parametrize("size", [24, 64])
def test_padding_and_the_released_cut_of_larger_pictures(size):
    source = sample_of((30, 50))
    out = PadTo(size, ignore_label=255)(source)
    height, width = min(size, 30), min(size, 50)
    assert (
        out["part_map"].shape == out["object_map"].shape == (size, size)
        and tuple(out["image"].shape)[1:] == (size,) * 2
    )
    assert torch.equal(out["part_map"][:height, :width].data, source["part_map"][:height, :width].data)
    assert torch.equal(out["image"][:, :height, :width].data, source["image"][:, :height, :width].data)
    assert (out["part_map"][height:] == 255).all() and (out["object_map"][:, width:] == 255).all()
    assert (out["image"][:, height:] == 128).all() and (out["image"][:, :, width:] == 128).all()


def test_bgr_reverses_channels_and_is_off_by_default():
    source = sample_of((20, 30))
    plain = training_transform(shortest_edge=20, flip=0)(source)["image"]
    reverse = training_transform(shortest_edge=20, flip=0, channel_order="bgr")(source)["image"]
    assert torch.equal(plain.data, source["image"].data)
    assert torch.equal(reverse.data, source["image"][[2, 1, 0]].data)
    squashed = training_transform(shortest_edge=20, flip=0, channel_order="bgr", final_size=16)(source)["image"]
    assert squashed.shape == (3, 16, 16)  # what follows still takes it for a picture


def test_padding_needs_an_ignore_label():
    with pytest.raises(ValueError, match="pad_size needs ignore_label"):
        training_transform(pad_size=384)


def test_brightness_and_contrast_are_plain_arithmetic():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    numbers = np.arange(256.0)
    for delta in (-32.0, -7.4, 0.0, 19.6, 32.0):
        expected = np.clip(numbers + delta, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(add_brightness(values, delta)[1].flatten().numpy(), expected)
    for factor in (0.5, 0.83, 1.0, 1.37, 1.5):
        expected = np.clip(numbers * factor, 0, 255)
        difference = multiply_contrast(values, factor)[2].flatten().numpy() - expected
        assert np.all((difference <= 1e-3) & (difference > -1.001))  # cut to whole numbers


@settings(deadline=None, max_examples=200)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.floats(0.5, 1.5))
def test_saturation_is_the_s_of_hsv(rgb, factor):
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))
    expected = np.array(colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)) * 255
    pixel = multiply_saturation(torch.tensor(rgb, dtype=torch.uint8).reshape(3, 1, 1), factor).flatten().numpy()
    assert np.all(np.abs(pixel - expected) <= 1.001)


@settings(deadline=None, max_examples=100)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(-18, 18))
def test_hue_turns_by_the_drawn_steps_of_180(rgb, steps):
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))
    expected = np.array(colorsys.hsv_to_rgb((hue + steps / 180) % 1, saturation, value)) * 255
    params = dict.fromkeys(("brightness", "contrast", "saturation")) | {"contrast_first": True, "hue": steps}
    image = tv_tensors.Image(torch.tensor(rgb, dtype=torch.uint8).reshape(3, 1, 1))
    pixel = PhotometricDistortion().transform(image, params).flatten().numpy()
    assert np.all(np.abs(pixel - expected) <= 2.001)


def test_distortion_draws_what_is_specified_and_spares_labels():
    torch.manual_seed(0)
    drawn = [PhotometricDistortion().make_params([]) for _ in range(600)]
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-18, 18)}
    for step, (low, high) in ranges.items():
        taken = [params[step] for params in drawn if params[step] is not None]
        assert 250 < len(taken) < 350 and low <= min(taken) and max(taken) <= high
        assert min(taken) < low + 0.1 * (high - low) and max(taken) > high - 0.1 * (high - low)
    assert 250 < sum(params["contrast_first"] for params in drawn) < 350
    assert {params["hue"] for params in drawn} == {None, *range(-18, 19)}
    source = sample_of((20, 30))
    out = PhotometricDistortion()(source)
    assert torch.equal(out["part_map"].data, source["part_map"].data)
    assert out["image"].dtype == torch.uint8 and out["image"].shape == source["image"].shape


def test_order_of_contrast_and_saturation_matters_as_specified():
    image = tv_tensors.Image(torch.tensor([250, 120, 20], dtype=torch.uint8).reshape(3, 1, 1))
    params = {"brightness": None, "hue": None, "contrast": 1.5, "saturation": 0.5}
    first = PhotometricDistortion().transform(image, params | {"contrast_first": True}).flatten().tolist()
    last = PhotometricDistortion().transform(image, params | {"contrast_first": False}).flatten().tolist()
    assert first == [255, 217, 142]  # ×1.5: 255, 180, 30; halfway to 255
    assert last == [255, 255, 202]  # halfway to 250: 250, 185, 135; ×1.5

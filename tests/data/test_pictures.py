"""Pictures of every mode, depth and orientation are read as they look, or refused by name."""

import numpy as np
import pytest
from PIL import Image

import ovparts_lib.data.labels as module
from ovparts_lib.data import DatasetError, PascalPart116, read_image, verify_dataset
from ovparts_lib.data.dataset import read_sample
from tests.data.released_layout import save

RAMP = np.tile(np.arange(256), (3, 1))
COLUMNS = [0, 19, 127, 235, 255]


def columns(path):
    image = read_image(path)
    assert (image == image[:1]).all()
    return image[0, 1, COLUMNS].tolist()


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_greyscale_is_scaled(tmp_path, name):
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(tmp_path / name)
    assert columns(tmp_path / name) == COLUMNS


def test_16_bit_big_endian_is_scaled(tmp_path):
    big = (RAMP * 257).astype(">u2")
    Image.frombytes("I;16B", (256, 3), big.tobytes()).save(tmp_path / "deep.tif")
    assert columns(tmp_path / "deep.tif") == COLUMNS


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        ((RAMP * 16).astype(np.uint16), "I;16"),  # 12 bits in 16
        ((RAMP * 64).astype(np.uint16), "I;16"),
        ((RAMP * 2**20).astype(np.int32), "I"),
        ((RAMP / 255).astype(np.float32), "F"),
        (RAMP.astype(np.float32), "F"),
    ],
)
def test_depths_without_a_white_are_refused_by_mode(tmp_path, pixels, mode):
    Image.fromarray(pixels).save(tmp_path / "odd.tif")
    with pytest.raises(DatasetError, match=rf"odd\.tif: .*mode {mode}\b.*Convert it to 8 bits"):
        read_image(tmp_path / "odd.tif")


def test_what_is_hidden_under_transparency_is_not_looked_at(tmp_path):
    grey = np.stack([np.full((2, 4), 90), np.tile([0, 255, 51, 255], (2, 1))], axis=-1).astype(np.uint8)
    expected = [255, 90, 222, 90]  # 0.8 · 255 + 0.2 · 90
    for mode in ("LA", "RGBA"):
        pixels = grey if mode == "LA" else np.concatenate([np.repeat(grey[..., :1], 3, axis=2), grey[..., 1:]], axis=2)
        Image.fromarray(pixels).save(tmp_path / f"{mode}.png")
        image = read_image(tmp_path / f"{mode}.png")
        assert image[:, 0].tolist() == [expected] * 3


def test_a_transparent_palette_entry_is_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putdata([0, 1])
    picture.save(tmp_path / "palette.png", transparency=0)
    assert read_image(tmp_path / "palette.png").permute(1, 2, 0).tolist() == [[[255, 255, 255], [200, 100, 0]]]


def test_photographs_over_pillows_limit_are_read_and_a_limit_remains(tmp_path, monkeypatch):
    # 1-bit, so that 180 megapixels are small on disk and fast to make
    Image.new("1", (18_000, 10_001), 1).save(tmp_path / "large.png")
    with module.opened(tmp_path / "large.png") as picture:
        assert picture.size == (18_000, 10_001)
    monkeypatch.setattr(module, "MAX_PIXELS", 1_000_000)
    with pytest.raises(DatasetError, match=r"large\.png: has 180 megapixels; at most 1 are read\. Make it smaller"):
        read_image(tmp_path / "large.png")


def turn(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as picture:
        picture.load()
    picture.save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_dataset_pictures_are_never_turned_against_their_labels(root, orientation):
    image = "images/val/2010_000001.jpg"
    turn(root / image, 1)
    reader = PascalPart116(root)
    record = next(record for record in reader.pairs("val") if record.image_id == "2010_000001")
    upright, labels = read_sample(reader, record)[0], reader.label_maps(record)
    turn(root / image, orientation)
    served, object_map, part_map = read_sample(PascalPart116(root), record)
    assert served.shape == upright.shape and (served.int() - upright.int()).abs().max() < 30  # saved as JPEG again
    np.testing.assert_array_equal(object_map, labels[0])
    np.testing.assert_array_equal(part_map, labels[1])
    (problem,) = verify_dataset("pascal_part_116", root).problems
    assert problem.file == str(root / image) and f"EXIF orientation {orientation}" in problem.what
    assert "remove the orientation tag" in problem.what_to_do


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_drawn_on_the_turned_picture_get_the_turned_picture(root, orientation):
    turn(root / "images/val/2010_000001.jpg", orientation)
    for kind in ("obj", "part"):
        path = root / f"annotations_detectron2_{kind}/val/2010_000001.png"
        with Image.open(path) as labels:
            pixels = np.array(labels)
        save(path, np.ascontiguousarray(pixels.T))
    reader = PascalPart116(root)
    image, _, part_map = read_sample(reader, reader.pairs("val")[0])
    assert tuple(image.shape[-2:]) == part_map.shape == (47, 33)
    (problem,) = verify_dataset("pascal_part_116", root).problems
    assert "EXIF orientation" in problem.what

import numpy as np
import pytest
import torch
from PIL import Image

from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.labels import read_image, read_labels


def test_palette_files_give_indices_not_colours(tmp_path):
    indices = np.arange(120, dtype=np.uint8).reshape(10, 12)
    file = Image.fromarray(indices).convert("P")
    file.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    file.putdata(indices.ravel().tolist())
    file.save(tmp_path / "palette.png")
    Image.fromarray(indices).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        labels = read_labels(tmp_path / name)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, indices)


def test_one_bit_files_that_a_png_optimiser_wrote(tmp_path):
    values = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
    Image.fromarray(values).convert("1").save(tmp_path / "one_bit.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "one_bit.png"), values)


def test_16_bit_labels_are_read_as_such_and_refused_as_8_bit(tmp_path):
    values = np.array([[0, 300, 65535], [7, 1000, 2]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    labels = read_labels(tmp_path / "deep.png", np.uint16)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, values)
    with pytest.raises(DatasetError, match=r"deep\.png: .*8-bit labels are expected"):
        read_labels(tmp_path / "deep.png")


def test_colour_label_file_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(DatasetError, match=r"colour\.png: .*mode RGB"):
        read_labels(tmp_path / "colour.png")


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    Image.new(mode, (5, 3)).save(tmp_path / "picture.jpg")
    image = read_image(tmp_path / "picture.jpg")
    assert image.dtype == torch.uint8 and tuple(image.shape) == (3, 3, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0], upright[0, -1], upright[-1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # how a camera stores an upright scene under each orientation value (EXIF 2.3, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    # PNG keeps pixels exactly; readers go by content, not by extension
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.jpg", format="PNG", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.jpg").permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_jpeg_is_an_error_naming_the_file(tmp_path, keep):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(DatasetError, match=r"cut\.jpg: cannot be decoded"):
        read_image(path)


def test_truncated_label_file_and_missing_file(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 116, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=r"cut\.png: cannot be decoded"):
        read_labels(path)
    with pytest.raises(DatasetError, match=r"gone\.png: no such file\. Check the path; in a dataset, unpack it again"):
        read_labels(tmp_path / "gone.png")


def test_a_folder_is_no_picture(tmp_path):
    (tmp_path / "holiday.jpg").mkdir()
    with pytest.raises(DatasetError, match=r"holiday\.jpg: is a folder, not a file\. Name the file itself"):
        read_image(tmp_path / "holiday.jpg")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_lose_the_picture(tmp_path):
    Image.new("RGB", (5, 3)).save(tmp_path / "photo.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert tuple(read_image(tmp_path / "photo.jpg").shape) == (3, 3, 5)

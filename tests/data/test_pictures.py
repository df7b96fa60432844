"""Pictures of every mode, depth and orientation are read as they look, or refused by name."""

import errno
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import ovparts_lib.data.labels as module
from ovparts_lib.data.dataset import read_sample
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.labels import read_image, read_labels
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.registry import verify_dataset
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


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def save_deep_png(path, samples, more=b""):
    """Pillow writes no 16-bit colour: samples (h, w, channels) of 0..65535; ``more`` goes before the pixels."""
    height, width, channels = samples.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2"))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_is_scaled_and_fewer_bits_are_refused(tmp_path, channels):
    def samples(scale):
        colour = np.repeat((RAMP * scale)[..., None], channels, axis=2)
        return np.where(np.arange(channels) == (3 if channels == 4 else 1 if channels == 2 else -1), 65535, colour)

    save_deep_png(tmp_path / "deep.png", samples(257))
    assert columns(tmp_path / "deep.png") == COLUMNS
    save_deep_png(tmp_path / "twelve.png", samples(16))
    with pytest.raises(DatasetError, match=r"twelve\.png: .*mode RGBA? with no value over 3840: 16 bits of which 14"):
        read_image(tmp_path / "twelve.png")


def test_a_transparent_grey_of_16_bits_is_white(tmp_path):
    save_deep_png(tmp_path / "deep.png", (RAMP * 257)[..., None], chunk(b"tRNS", struct.pack(">H", 19 * 257)))
    assert columns(tmp_path / "deep.png") == [0, 255, 127, 235, 255]


def test_where_0_is_white(tmp_path):
    reversed_columns = [255 - value for value in COLUMNS]
    # Pillow reverses 8 bits in writing, too.
    for name, bits, expected in (("8.tif", np.uint8, COLUMNS), ("16.tif", np.uint16, reversed_columns)):
        greys = (RAMP * (257 if bits is np.uint16 else 1)).astype(bits)
        Image.fromarray(greys).save(tmp_path / name, tiffinfo={262: 0})
        assert Image.open(tmp_path / name).tag_v2[262] == 0
        assert columns(tmp_path / name) == expected
        with pytest.raises(DatasetError, match="reversed, for its white is 0"):
            read_labels(tmp_path / name, bits)


@pytest.mark.parametrize("largest", [65535, 4095])
def test_a_format_that_says_what_is_white_is_believed(tmp_path, largest):
    values = np.rint(RAMP * largest / 255).astype(">u2")
    (tmp_path / "deep.png").write_bytes(b"P5 256 3 %d\n" % largest + values.tobytes())
    assert np.abs(np.subtract(columns(tmp_path / "deep.png"), COLUMNS)).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_of_several_pictures_in_a_file_the_first_is_read_and_it_is_said(tmp_path, suffix):
    path, frames = tmp_path / f"two.{suffix}", [Image.new("RGB", (9, 7), (value,) * 3) for value in (10, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=f"two.{suffix} holds 2 pictures; the first is read"):
        assert abs(int(read_image(path)[0, 3, 3]) - 10) < 3


def test_the_preview_in_a_cameras_file_is_no_second_picture(tmp_path, recwarn):
    frames = [Image.new("RGB", (9, 7), (value,) * 3) for value in (10, 200)]
    frames[0].save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "two.jpg").max() < 15 and not recwarn.list


@pytest.mark.parametrize(
    ("start", "kind", "advice"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC, AVIF or their like", "Convert it to JPEG or PNG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video", "Save one of its pictures"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "a video", "Save one of its pictures"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file", "Convert it to JPEG or PNG"),
        (b"RIFF\x24\0\0\0AVI LIST", "a video", "Save one of its pictures"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1", "a video", "Save one of its pictures"),
        (b"%PDF-1.7", "PDF", "Convert it to JPEG or PNG"),
        (b" <svg/>", "SVG or other XML", "Convert it to JPEG or PNG"),
        (b"\x93NUMPY", "a numpy array", "Convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "Convert it to JPEG or PNG"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page", "Download the picture itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "Get the file itself: git lfs pull"),
        (b"PK\3\4\x14\0", "a ZIP archive", "Unpack it"),
        (b"", "an empty file", "Copy or download it again"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "(?!a video)", "The file is damaged, or no picture"),
        (b"what?", "cannot identify image file", "The file is damaged, or no picture"),
    ],
)
def test_files_that_are_no_picture_we_read_are_called_what_they_are(tmp_path, start, kind, advice):
    (tmp_path / "photo.jpg").write_bytes(start and start + bytes(40))
    with pytest.raises(DatasetError, match=rf"cannot be decoded \({kind}.*\)\. {advice}"):
        read_image(tmp_path / "photo.jpg")


def test_labels_that_jpeg_has_changed_are_refused(tmp_path):
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "labels.png", format="JPEG")
    with pytest.raises(DatasetError, match=r"labels\.png: label file is a JPEG, which changes labels"):
        read_labels(tmp_path / "labels.png")


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


def test_a_picture_that_the_system_does_not_let_us_read_is_not_called_damaged(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    Image.new("L", (3, 3)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "open", failing)
    for read in (read_image, read_labels):
        with pytest.raises(DatasetError, match=r"x\.png: cannot be read .Input/output error.\. Check the disk"):
            read(tmp_path / "x.png")

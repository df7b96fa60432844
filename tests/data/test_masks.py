"""A user's own masks: folders of PNG files and arrays, and what is no mask."""

import numpy as np
import pytest
from PIL import Image

from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.labels import read_masks

SIZE = (5, 7)


def masks():
    made = np.zeros((2, *SIZE), bool)
    made[0, :2], made[1, :, 3:] = True, True
    return made


def test_folders_and_arrays_give_the_same_masks(tmp_path):
    folder = tmp_path / "sam"
    folder.mkdir()
    Image.fromarray(masks()[0].astype(np.uint8) * 255).save(folder / "0.png")
    Image.fromarray(np.repeat(masks()[1][..., None].astype(np.uint8) * 9, 3, axis=2)).save(folder / "1.PNG")
    (folder / "metadata.csv").write_text("id,area\n")  # as segment-anything leaves it
    np.save(tmp_path / "bools.npy", masks())
    np.savez(tmp_path / "numbers.npz", masks().astype(np.float32))
    for path in (folder, tmp_path / "bools.npy", tmp_path / "numbers.npz"):
        np.testing.assert_array_equal(read_masks(path, SIZE).numpy(), masks())
    np.save(tmp_path / "one.npy", masks()[1])
    np.testing.assert_array_equal(read_masks(tmp_path / "one.npy", SIZE).numpy(), masks()[1:])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (masks()[:, :4], r"mask 0: is 7 x 4 pixels, the picture 7 x 5"),
        (np.zeros((1, *SIZE)), "mask 0: is empty"),
        (np.arange(35).reshape(1, *SIZE), "mask 0: holds 34 values beside 0"),
        (np.zeros((0, *SIZE)), r"is an array of shape \(0, 5, 7\)"),
        (np.full((1, *SIZE), "x"), "is no mask"),
        (np.where(masks(), np.nan, 0), "mask 0: holds no finite value beside 0"),
    ],
)
def test_arrays_that_are_no_masks_are_one_clear_problem(tmp_path, made, message):
    np.save(tmp_path / "masks.npy", made)
    with pytest.raises(DatasetError, match=message):
        read_masks(tmp_path / "masks.npy", SIZE)


def test_files_that_are_no_masks_are_named(tmp_path):
    with pytest.raises(DatasetError, match="there are no masks here"):
        read_masks(tmp_path / "nothing.npy", SIZE)
    with pytest.raises(DatasetError, match="holds no PNG file"):
        read_masks(tmp_path, SIZE)
    photograph = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    with pytest.raises(DatasetError, match=r"photo.png.*is no mask but a picture in colour"):
        read_masks(tmp_path, SIZE)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DatasetError, match="cannot be decoded"):
        read_masks(tmp_path, SIZE)
    np.savez(tmp_path / "two.npz", a=masks(), b=masks())
    with pytest.raises(DatasetError, match="must hold one array, not a, b"):
        read_masks(tmp_path / "two.npz", SIZE)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"is no array of numbers: it holds Python objects\. Give"):
        read_masks(tmp_path / "objects.npy", SIZE)
    np.savez_compressed(tmp_path / "cut.npz", masks())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    with pytest.raises(DatasetError, match="is no array"):
        read_masks(tmp_path / "cut.npz", SIZE)


@pytest.mark.parametrize("colour", [1, 3])
def test_a_mask_may_stand_in_the_transparency(tmp_path, colour):
    shown = np.full((*SIZE, colour), 255)
    cut_out = np.concatenate([shown, masks()[0][..., None] * 255], axis=2).astype(np.uint8)
    Image.fromarray(cut_out).save(tmp_path / "0.png")
    np.testing.assert_array_equal(read_masks(tmp_path, SIZE).numpy(), masks()[:1])
    cut_out[0, 0, -1] = 90
    Image.fromarray(cut_out).save(tmp_path / "0.png")
    with pytest.raises(DatasetError, match=r"0\.png: is transparent in part"):
        read_masks(tmp_path, SIZE)

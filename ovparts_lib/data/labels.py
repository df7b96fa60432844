"""Reading pictures, label files, and a user's own masks, so that every wrong file is named."""

import contextlib
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ovparts_lib.data.files import DatasetError, check_file, list_files, unreadable
from ovparts_lib.images import MAX_PIXELS, SIXTEEN_BIT, WHITE_IS_ZERO, rgb_pixels

# What PIL raises on damaged files: UnidentifiedImageError and truncation are OSErrors, a broken PNG chunk is a
# SyntaxError, damaged TIFF/EXIF tables are struct errors, and so on.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, OverflowError)
_PHOTOMETRIC = 262  # TIFF's tag: 0 where white is 0
_GREY_MODES = {np.dtype(np.uint8): ("L", "P", "1"), np.dtype(np.uint16): ("I;16", "I;16B", "I;16L", "I")}
_CONVERT = "Convert it to JPEG or PNG."
# Files that are taken for pictures: how they begin, what they are, what to do.
_FOREIGN = (
    (rb"....ftyp(hei[cxms]|hev[cx]|mif[12]|msf1|avi[fs])", "HEIC, AVIF or their like", _CONVERT),  # what phones write
    (rb"....ftypcrx ", "a camera's raw file", _CONVERT),
    (rb"....ftyp|RIFF....AVI |\x1a\x45\xdf\xa3", "a video", "Save one of its pictures as JPEG or PNG."),
    (rb"\0\0\0\x0cJXL ", "JPEG XL", _CONVERT),
    (rb"%PDF", "PDF", _CONVERT),
    (rb"<svg|<\?xml", "SVG or other XML", _CONVERT),
    (rb"\x93NUMPY", "a numpy array", _CONVERT),
    (rb"<!doctype html|<html", "a web page", "Download the picture itself."),
    (rb"version https://git-lfs", "a pointer of Git LFS", "Get the file itself: git lfs pull."),
    (rb"PK\x03\x04", "a ZIP archive", "Unpack it."),
    (rb"\Z", "an empty file", "Copy or download it again."),
)
_MASKS = "Give a folder of PNG files, one mask each (0 outside, one other value inside), or a .npy or .npz array."


def read_image(path: Path, label_size: tuple[int, int] | None = None) -> Tensor:
    """A picture as it should be looked at: RGB, EXIF orientation applied, transparent pixels white.

    Args:
        path: of the file.
        label_size: (height, width) of the labels that the picture goes with, if it has labels. A picture whose stored
            pixels have this size is not turned, whatever its EXIF block says, for labels are drawn on stored pixels.

    Returns:
        uint8 (3, H, W).

    Raises:
        DatasetError: the file is missing, truncated, no picture, or of a mode that does not say what is white.
    """
    return torch.from_numpy(decode_picture(path, label_size)[0]).permute(2, 0, 1).contiguous()


def decode_picture(path: Path, label_size: tuple[int, int] | None = None) -> tuple[np.ndarray, int]:
    """Pixels of a picture, uint8 (H, W, 3), and its EXIF orientation (1..8); see :func:`read_image`."""
    with opened(path) as picture:
        orientation = 1
        # A damaged EXIF block says nothing about the pixels, which are already decoded.
        with contextlib.suppress(*_DAMAGED):
            orientation = int(picture.getexif().get(ExifTags.Base.Orientation, 1))
            if orientation != 1 and (picture.height, picture.width) != label_size:
                picture = ImageOps.exif_transpose(picture)
        try:
            return rgb_pixels(picture), orientation if orientation in range(2, 9) else 1
        except ValueError as error:
            what = f"cannot be read as a picture ({error})"
            raise DatasetError(path, what, "Convert it to 8 bits per channel.") from None


def read_labels(path: Path, dtype: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    """A label file: the stored values of a greyscale file, the indices (never the colours) of a palette file.

    Args:
        path: an 8-bit (mode L or P) or 16-bit greyscale file.
        dtype: ``np.uint8`` or ``np.uint16``: the depth this dataset is released with.

    Returns:
        (H, W) of ``dtype``.

    Raises:
        DatasetError: the file is missing, truncated, no picture, or of another depth.
    """
    dtype = np.dtype(dtype)
    with opened(path) as picture:
        if picture.mode not in _GREY_MODES[dtype]:
            what = f"label file has mode {picture.mode}; {8 * dtype.itemsize}-bit labels are expected"
            raise DatasetError(path, what, "Unpack the released label file again; do not convert or re-save it.")
        if picture.format == "JPEG":
            raise DatasetError(path, "label file is a JPEG, which changes labels", "Make it again, as a PNG.")
        if picture.info.get(WHITE_IS_ZERO):
            raise DatasetError(path, "has labels that are reversed, for its white is 0", "Make it again, as a PNG.")
        labels = np.array(picture.convert("L") if picture.mode == "1" else picture)
    if labels.dtype != dtype and (labels.min(initial=0) < 0 or labels.max(initial=0) > np.iinfo(dtype).max):
        raise DatasetError(path, f"label value outside 0..{np.iinfo(dtype).max}")
    return labels.astype(dtype, copy=False)


def check_label_range(labels: np.ndarray, classes: int, ignore_label: int, path: Path, kind: str) -> None:
    """Raise DatasetError naming the file and the values that are neither a class nor the ignore label."""
    wrong = (labels >= classes) & (labels != ignore_label)
    if wrong.any():
        values = np.unique(labels[wrong])
        shown = ", ".join(map(str, values[:5])) + (" …" if len(values) > 5 else "")
        known = f"values are 0..{classes - 1} and {ignore_label} (no label)"
        advice = "Unpack the released label file again, or check that it belongs to this dataset."
        raise DatasetError(path, f"{kind} label out of range: {shown} in {int(wrong.sum())} pixels; {known}", advice)


def check_same_size(first: Path, first_size: tuple[int, int], second: Path, second_size: tuple[int, int]) -> None:
    """Raise DatasetError naming both files and their sizes (height, width) when these differ."""
    if tuple(first_size) != tuple(second_size):
        one, other = ("×".join(map(str, size)) for size in (first_size, second_size))
        advice = "Picture and labels must have one size; unpack both again, and check that neither was turned."
        raise DatasetError(second, f"{other} (height × width) does not fit {first} with {one}", advice)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture decoded to its end. Raises DatasetError: missing, a folder, too large, truncated, or no picture."""
    check_file(path)
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size, most = (f"{pixels / 1e6:,.0f}" for pixels in (picture.width * picture.height, MAX_PIXELS))
                raise DatasetError(path, f"has {size} megapixels; at most {most} are read", "Make it smaller.")
            # What decoding forgets.
            picture.info[SIXTEEN_BIT] = ";16" in str(picture.tile)
            picture.info[WHITE_IS_ZERO] = getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0
            if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # whose second is a preview
                warnings.warn(f"{path} holds {picture.n_frames} pictures; the first is read", stacklevel=4)
            picture.load()  # decode everything now: a truncated file must not pass
            yield picture
    except DatasetError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno:  # of the system; Pillow's own say that a picture is damaged
            raise unreadable(path, error) from error
        kind, advice = _foreign_kind(path)
        raise DatasetError(path, f"cannot be decoded ({kind or error or type(error).__name__})", advice) from error


def _foreign_kind(path: Path) -> tuple[str, str]:
    """What a file is that is no picture we read (empty where that is not known), and what to do about it."""
    with path.open("rb") as file:
        start = file.read(256).lstrip()
    found = (about for pattern, *about in _FOREIGN if re.match(pattern, start, re.DOTALL | re.IGNORECASE))
    return next(found, ("", "The file is damaged, or no picture: copy, download or unpack it again."))


def read_masks(path: Path, size: tuple[int, int]) -> Tensor:
    """Masks of a picture, as segment-anything and others write them.

    Args:
        path: a folder of PNG files, one mask each, taken in the order of their names; or a ``.npy`` file, or a ``.npz``
            file of one array, (k, H, W) or (H, W), of bools or of 0 and another value.
        size: (height, width) of the picture.

    Returns:
        Bool (k, H, W), at least one.

    Raises:
        DatasetError: nothing there, a file that is no mask, one without a pixel, or one of another size.
    """
    if path.is_dir():
        files = list_files(path, (".png",))
        if not files:
            raise DatasetError(path, "holds no PNG file", _MASKS)
        return torch.stack([_mask(_read_png(file), size, file) for file in files.values()])
    if not path.is_file():
        raise DatasetError(path, "there are no masks here", _MASKS)
    try:
        stored = np.load(path, allow_pickle=False)
        names = [] if isinstance(stored, np.ndarray) else stored.files
        stored = stored[names[0]] if len(names) == 1 else stored
    except Exception as error:  # whatever numpy, zipfile and zlib stumble over in a damaged file
        why = "it holds Python objects" if "allow_pickle" in str(error) else error
        raise DatasetError(path, f"is no array of numbers: {why}", _MASKS) from error
    if not isinstance(stored, np.ndarray):
        raise DatasetError(path, f"must hold one array, not {', '.join(names) or 'none'}", _MASKS)
    stored = stored[None] if stored.ndim == 2 else stored
    if stored.ndim != 3 or not len(stored):
        raise DatasetError(path, f"is an array of shape {stored.shape}, not (k, H, W)", _MASKS)
    return torch.stack([_mask(mask, size, path, f"mask {number}: ") for number, mask in enumerate(stored)])


def _read_png(file: Path) -> np.ndarray:
    with opened(file) as picture:
        return np.array(picture)


def _mask(values: np.ndarray, size: tuple[int, int], file: Path, which: str = "") -> Tensor:
    if values.ndim == 3 and values.shape[2] in (2, 4):
        if not np.isin(values[..., -1], (0, 255)).all():
            raise DatasetError(file, f"{which}is transparent in part", _MASKS)
        values = np.where(values[..., -1:], values[..., :-1], 0)  # what cannot be seen is outside
    if values.ndim == 3 and values.shape[2] in (1, 3) and (values == values[..., :1]).all():
        values = values[..., 0]  # a grey picture saved in colour
    if values.ndim != 2 or not (values.dtype == bool or np.issubdtype(values.dtype, np.number)):
        raise DatasetError(file, f"{which}is no mask but a picture in colour", _MASKS)
    if values.shape != size:
        what = f"{which}is {values.shape[1]} x {values.shape[0]} pixels, the picture {size[1]} x {size[0]}"
        raise DatasetError(file, what, "Make the masks from the very file that is looked at, at its size.")
    inside = np.unique(values[values != 0])
    if len(inside) == 1 and not np.isfinite(inside[0]):
        raise DatasetError(file, f"{which}holds no finite value beside 0", _MASKS)
    if len(inside) != 1:
        problem = f"holds {len(inside)} values beside 0" if len(inside) else "is empty"
        raise DatasetError(file, f"{which}{problem}", _MASKS)
    return torch.from_numpy(values != 0)

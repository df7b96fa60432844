"""Files of a dataset as they are found on disk: listed and read so that whatever is wrong with one is named."""

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class DatasetError(ValueError):
    """A dataset on disk is not what it should be: the message says which file, what is wrong, and what to do.

    Args:
        file: the file or folder it concerns.
        what: what is wrong, without a full stop.
        what_to_do: one sentence for the person who reads the message.
    """

    def __init__(self, file: str | Path, what: str, what_to_do: str = "Download or unpack it again.") -> None:
        # File names are bytes: one that is not UTF-8 must not keep the message from being printed.
        self.file, self.what = (str(text).encode("utf-8", "backslashreplace").decode() for text in (file, what))
        self.what_to_do = what_to_do
        super().__init__(f"{self.file}: {self.what}. {what_to_do}")


@dataclass(frozen=True)
class Record:
    """One line of a split listing.

    Attributes:
        image_path: the picture.
        part_path: its part labels.
        object_path: its object labels; None where a dataset derives them from other annotations.
        image_id: base name of the picture without extension.
        object_id: the object this record is conditioned on, in the dataset's full vocabulary; None for the whole image.
        instance: which instance of the object, where a dataset conditions on instances; None for all of them.
    """

    image_path: Path
    part_path: Path
    object_path: Path | None
    image_id: str
    object_id: int | None = None
    instance: int | None = None


Refuse = Callable[[DatasetError], None]
"""What is done with an error: collect it, or raise it."""


def raise_error(error: DatasetError) -> None:
    """What to do with an error where nobody collects them."""
    raise error


def check_file(path: Path, what_to_do: str = "Check the path; in a dataset, unpack it again.") -> None:
    """Raise DatasetError unless ``path`` is a regular file; a named pipe, say, would be waited for without end.

    Args:
        path: of the file.
        what_to_do: advice where there is none of that name.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            what = "is a link to a file that is not there"
            raise DatasetError(path, what, "Restore the file, or remove the link.") from None
        raise DatasetError(path, "no such file", what_to_do) from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if stat.S_ISDIR(mode):
        raise DatasetError(path, "is a folder, not a file", "Name the file itself.")
    if not stat.S_ISREG(mode):
        raise DatasetError(path, "is a pipe, socket or device, not a file", "Remove it.")


def read_file(path: Path, what_to_do: str = "Check the path; in a dataset, unpack it again.") -> bytes:
    """The content of a regular file. Raises DatasetError: there is none, or it cannot be read."""
    check_file(path, what_to_do)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DatasetError:
    """The error for a file or folder that the system does not let us read."""
    reason = getattr(error, "strerror", None) or error
    long = getattr(error, "errno", None) == errno.ENAMETOOLONG
    advice = "Check the path." if long else "Check the disk, links and permissions."
    return DatasetError(path, f"cannot be read ({reason})", advice)


def read_json(path: Path, missing: str) -> Any:
    """The value in a JSON file, with advice where there is no such file.

    Raises:
        DatasetError: there is no such file, or it holds no JSON in UTF-8.
    """
    content = read_file(path, missing)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(path, f"is not readable JSON ({type(error).__name__}: {error})") from None


def list_files(
    folder: Path, suffixes: Iterable[str], refuse: Refuse = raise_error, *, depth: int = 1
) -> dict[str, Path]:
    """``{name without suffix, relative to the folder: path}`` of the files of a kind, sorted, hidden ones left out.

    Args:
        folder: where to look.
        suffixes: in lower case, such as ``.jpg``; those on disk may be in any case.
        refuse: gets an error for each file that cannot be used: a link to nowhere, a pipe, a name that is not UTF-8,
            and the second of two files that differ in nothing but their suffix (``x.jpg`` and ``x.JPG``).
        depth: levels of folders to look into: 1 for the folder's own files.
    """
    suffixes, found = tuple(suffixes), {}
    for path in sorted(_entries(folder, refuse, depth)):
        if path.suffix.lower() not in suffixes:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            check_file(path)
            if path.name.encode("utf-8", "replace").decode() != path.name:
                raise DatasetError(path, "has a name that is not UTF-8", "Rename it.")
            if name in found:
                what = f"differs from {found[name]} in nothing but its suffix, so that it is not clear which counts"
                raise DatasetError(path, what, "Keep one of the two.")
        except DatasetError as error:
            refuse(error)
        else:
            found[name] = path
    return dict(sorted(found.items()))


def _entries(folder: Path, refuse: Refuse, depth: int) -> Iterator[Path]:
    """Everything that is no folder, at most ``depth`` levels down; not what is hidden (``._*`` of macOS archives)."""

    def unread(error: OSError) -> None:
        refuse(unreadable(Path(error.filename), error))

    for top, folders, names in os.walk(folder, onerror=unread, followlinks=True):
        deepest = len(Path(top).relative_to(folder).parts) + 1 >= depth
        folders[:] = [] if deepest else [name for name in folders if not name.startswith(".")]
        yield from (Path(top, name) for name in names if not name.startswith("."))

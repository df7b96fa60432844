"""A user's own labelled pictures: folders of pictures and label files, and a list of classes."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ovparts_lib.data.files import DatasetError, Record, read_file
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.readers.semantic import SemanticReader
from ovparts_lib.data.registry import Files, SemanticFolder
from ovparts_lib.strict_yaml import StrictLoader
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

_NEVER = 2.0  # a user's pictures may be labelled to the last pixel: what looks like a lost background is but a note
CLASS_FILES = ("classes.yaml", "classes.yml", "classes.json")
_ADVICE = (
    "It is a list of class names in label order, [sky, tree]; or objects with their parts, {dog: [head, tail], car: "
    "[wheel]}; or a mapping with classes (either form), and optionally unseen (names) and ignore_label."
)


def read_classes(root: Path) -> Vocabulary:
    """The class list of a user's dataset. Raises DatasetError: it is missing or wrong."""
    path = next(iter(_class_lists(root)), root / CLASS_FILES[0])
    try:
        content = yaml.load(read_file(path, _ADVICE).decode("utf-8-sig"), Loader=StrictLoader)
        settings = content if isinstance(content, dict) and "classes" in content else {"classes": content}
        if unknown := set(settings) - {"classes", "unseen", "ignore_label"}:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
        classes, unseen = settings["classes"], settings.get("unseen") or []
        ignore = settings.get("ignore_label", 255)
        if ignore not in (255, 65535):
            raise ValueError(f"ignore_label is 255 (8-bit label files) or 65535 (16-bit), not {ignore!r}")
        if isinstance(classes, dict):
            for names in ([*classes], *(own for own in classes.values() if own is not None)):
                _check_words(names)
            parts = [f"{owner}'s {part}" for owner, own in classes.items() for part in own or ()]
            return PartVocabulary("own", parts, tuple(classes), unseen, ignore, root.name)
        _check_words(classes)
        return Vocabulary("own", tuple(classes), frozenset(unseen), ignore, root.name)
    except DatasetError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(path, f"is no class list ({' '.join(str(error).split())})", _ADVICE) from error


def _class_lists(root: Path) -> list[Path]:
    return [root / name for name in CLASS_FILES if (root / name).is_file()]


def _check_words(names: Any) -> None:
    wrong = [name for name in names or () if not isinstance(name, str)] if isinstance(names, list) else [names]
    if wrong or not names:
        hint = " (quote words such as 'on', 'no' and numbers)" if wrong and isinstance(wrong[0], bool | int) else ""
        raise ValueError(f"{wrong[0]!r} is no name{hint}" if wrong else "it names no class")


def _places(root: Path) -> dict[str, SemanticFolder]:
    places = {split: SemanticFolder(f"images/{split}", f"labels/{split}") for split in ("train", "val")}
    return {split: place for split, place in places.items() if (root / place.labels).is_dir()} or places


class OwnClasses(SemanticReader):
    """A user's dataset with one class per pixel; see :func:`open_own`."""

    background_share = _NEVER

    def __init__(self, root: str | Path, **options: Any) -> None:
        super().__init__(root, name="own", places=_places(Path(root).expanduser()), **options)
        self.kinds = {"image": Files("", (".jpg", ".jpeg", ".png")), "label": Files("", (".png",))}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The user's classes."""
        return read_classes(self.root)

    def lists(self) -> list[Path]:
        """The class list."""
        return _class_lists(self.root)


class OwnParts(PascalPart116):
    """A user's dataset with object and part labels, one record per (image, object); see :func:`open_own`.

    Without object maps, an object is where its parts are.
    """

    name = "own"
    shots_released = False
    background_share = _NEVER

    def __init__(self, root: str | Path, **options: Any) -> None:
        super().__init__(root, **options)
        self.folders = {split: split for split in _places(self.root)}
        self.settings = {name: how for name, how in self.settings.items() if how.folder in self.folders}
        if not (self.root / "objects").is_dir():
            self.kinds = {kind: files for kind, files in self.kinds.items() if kind != "object"}
        self.dtype = np.uint16 if self.vocabulary.ignore_label > 255 else np.uint8

    @cached_property
    def vocabulary(self) -> PartVocabulary:
        """The user's objects and parts."""
        return read_classes(self.root)

    def lists(self) -> list[Path]:
        """The class list, and a few-shot list where there is one."""
        return _class_lists(self.root) + super().lists()

    def read_label(self, record: Record, kind: str) -> np.ndarray:
        """One label map (H, W); ``kind`` is ``object`` or ``part``."""
        if kind == "object" and record.object_path is None:
            ignore = self.vocabulary.ignore_label
            owners = np.full(ignore + 1, ignore, self.dtype)
            owners[: len(self.vocabulary.parts)] = self.vocabulary.part_to_object
            return owners[self.read_label(record, "part")]
        return super().read_label(record, kind)


def open_own(root: str | Path, **options: Any) -> OwnClasses | OwnParts:
    """The reader of a user's dataset: :class:`OwnParts` if its class list gives parts, else :class:`OwnClasses`.

    ::

        root/classes.yaml                          or classes.json: the class list
        root/images/{train,val}/<name>.jpg         or .jpeg, .png; one of the two splits is enough
        root/labels/{train,val}/<name>.png         8-bit index maps (mode L or P), or 16-bit ones if ignore_label > 255
        root/objects/{train,val}/<name>.png        optional, with parts: the object map; else the parts' owners

    Args:
        root: the folder that holds the class list.
        **options: see :class:`~ovparts_lib.data.readers.base.Reader`.

    Raises:
        DatasetError: the folder or its class list is missing or wrong.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DatasetError(folder, "no such folder", f"Own data has images, labels and {CLASS_FILES[0]}.")
    reader = OwnParts if isinstance(read_classes(folder), PartVocabulary) else OwnClasses
    return reader(folder, **options)

"""Which pictures of a PartImageNet folder belong to the selection, and what their annotations mean.

The released preprocessing of the 40-object selection deletes the pictures of all other synsets and moves files. Here
nothing on disk is changed: the same is decided while reading.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path, PurePosixPath

from ovparts_lib.data.coco_instances import CocoFile, CocoImage, read_coco
from ovparts_lib.data.files import DatasetError, Refuse
from ovparts_lib.vocabularies import PartVocabulary

_FACTS = json.loads(files(__package__).joinpath("partimagenet.json").read_text(encoding="utf-8"))

# Names of the part categories by their id in the annotation files: a super-category of objects, and the part.
PART_CATEGORIES: tuple[str, ...] = tuple(_FACTS["part_categories"])
# Object of each synset, for the objects of both selections.
SYNSETS: dict[str, str] = dict(_FACTS["synsets"])

OTHER_SYNSET = "images of synsets outside the selection, left out"
SIZES_ONLY = (
    "The file lists the pictures and their sizes, not their parts: download the part annotations in the format of COCO "
    "(train.json and val.json of PartImageNet's annotations, github.com/TACJu/PartImageNet) and use those files."
)
SUFFIXES = (".jpeg", ".jpg")  # in any case: the release has .JPEG
NO_PICTURE = "images whose picture file is missing, left out"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the selection.

    Attributes:
        path: of the file.
        image: its annotations, one for each part (or piece of a part).
        object_id: its object, from the synset in the file name.
        part_ids: the part of each annotation.
    """

    path: Path
    image: CocoImage
    object_id: int
    part_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Listing:
    """What ``train`` or ``val`` holds.

    Attributes:
        annotations: the annotation file.
        pictures: those of the selection, by ascending id in the annotation file.
        skipped: what was left out, and how often.
        unlisted: picture files that the annotation file does not name.
    """

    annotations: CocoFile
    pictures: tuple[Picture, ...]
    skipped: Mapping[str, int]
    unlisted: tuple[Path, ...]


class Selection:
    """The objects of a vocabulary and the synsets, part categories and files that belong to them.

    Args:
        vocabulary: of the selection.
        strict: a synset outside the vocabulary or a missing picture is an error (OOD); otherwise (Seg) such pictures
            are left out and counted, as the released preprocessing leaves them out.
        refuse: gets an error for each entry or file that is wrong; if it does not raise, that one is left out.
    """

    def __init__(self, vocabulary: PartVocabulary, *, strict: bool, refuse: Refuse) -> None:
        self.vocabulary, self.strict, self.refuse = vocabulary, strict, refuse

    @cached_property
    def synsets(self) -> dict[str, str]:
        """``{synset: object}``."""
        return {synset: name for synset, name in SYNSETS.items() if name in self.vocabulary.objects}

    @cached_property
    def part_ids(self) -> dict[tuple[int, int], int]:
        """Part id of each (object id, category id) that the vocabulary has."""
        names = {name: part_id for part_id, name in enumerate(self.vocabulary.parts)}
        wanted = {
            (object_id, category_id): f"{owner}'s {category.partition(' ')[2].lower()}"  # "Car Tier" is a car's tier
            for object_id, owner in enumerate(self.vocabulary.objects)
            for category_id, category in enumerate(PART_CATEGORIES)
        }
        return {pair: names[name] for pair, name in wanted.items() if name in names}

    def read(self, path: Path, found: Mapping[str, Path]) -> Listing:
        """The pictures and annotations of ``train`` or ``val``.

        Args:
            path: the annotation file.
            found: ``{base name: path}`` of the pictures.

        Raises:
            DatasetError: the annotation file is missing or wrong: ids, a part that the picture's object does not have,
                no picture of the selection at all, or what ``strict`` does not let pass.
        """
        annotations = read_coco(path, len(PART_CATEGORIES), self.refuse, SIZES_ONLY)
        with self._refusing():
            self._check_categories(annotations)
        skipped, pictures = Counter(annotations.dropped), []
        listed: dict[str, CocoImage] = {}
        for image in annotations.images:
            file, stem = PurePosixPath(image.file_name).name, _base_name(image)
            if (other := listed.setdefault(stem, image)) is not image:
                self.refuse(DatasetError(path, f"{image.file_name} and {other.file_name} are one picture, twice"))
                continue
            owner = self._object_of(file, path)
            if owner is None:
                skipped[OTHER_SYNSET] += 1
            elif stem not in found:
                self._refuse_if_strict(f"{file} is listed, but not in images/{path.stem}", path)
                skipped[NO_PICTURE] += 1
            else:
                object_id = self.vocabulary.object_id(owner)
                with self._refusing():
                    ids = self._part_ids(image, object_id, path)
                    pictures.append(Picture(found[stem], image, object_id, ids))
        if not pictures:
            count, objects = len(annotations.images), len(self.vocabulary.objects)
            what = f"none of its {count} images is a picture in images/{path.stem} of one of the {objects} objects"
            raise DatasetError(path, what)
        unlisted = tuple(path for stem, path in found.items() if stem not in listed)
        return Listing(annotations, tuple(pictures), dict(+skipped), unlisted)

    def _object_of(self, file: str, source: Path) -> str | None:
        """Object of a picture from its file name; None if it is outside the selection."""
        synset = file.split("_")[0]
        owner = self.synsets.get(synset)
        if owner is None:
            known = len(self.vocabulary.objects)
            self._refuse_if_strict(f"{file}: synset {synset!r} is none of the {known} known", source)
        return owner

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except DatasetError as error:
            self.refuse(error)

    def _refuse_if_strict(self, what: str, file: Path) -> None:
        if self.strict:
            advice = f"Unpack {self.vocabulary.title} again; it is used without any selection."
            self.refuse(DatasetError(file, what, advice))

    def _check_categories(self, annotations: CocoFile) -> None:
        """The download names the part categories; the released preprocessing puts names of no use in their place."""
        known = {name: category_id for category_id, name in enumerate(PART_CATEGORIES)}
        for category_id, name in annotations.categories:
            if known.get(name, category_id) != category_id:
                what = f"numbers the part category {name!r} as {category_id}; it is {known[name]}"
                advice = "Use the annotation file of the release, whose category ids are 0..39."
                raise DatasetError(annotations.path, what, advice)

    def _part_ids(self, image: CocoImage, object_id: int, source: Path) -> tuple[int, ...]:
        part_ids = []
        for instance in image.instances:
            part_id = self.part_ids.get((object_id, instance.category_id))
            if part_id is None:
                parts = ", ".join(self.vocabulary.parts[i] for i in self.vocabulary.parts_of(object_id))
                what = (
                    f"annotation {instance.id} of {image.file_name} is a {PART_CATEGORIES[instance.category_id]!r}, "
                    f"which no {self.vocabulary.objects[object_id]} has; its parts are {parts}"
                )
                raise DatasetError(source, what, "Unpack picture and annotations again: one is not as released.")
            part_ids.append(part_id)
        return tuple(part_ids)


def _base_name(image: CocoImage) -> str:
    """Name of a picture without folders and without the extension, which is .JPEG, .jpeg or .jpg on disk."""
    file = PurePosixPath(image.file_name)
    return file.stem if file.suffix.lower() in SUFFIXES else file.name

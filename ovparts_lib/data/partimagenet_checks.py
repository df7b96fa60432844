"""The integrity check of PartImageNet."""

from __future__ import annotations

from pathlib import Path

from ovparts_lib.data.partimagenet_facts import PART_CATEGORIES, families_of, family
from ovparts_lib.data.readers.partimagenet import FOLDERS, PartImageNet, PartImageNetOOD, PartImageNetSeg
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts
from ovparts_lib.data.splits import SHOTS_FILE
from ovparts_lib.data.verification_report import Problem, VerificationReport
from ovparts_lib.data.verify import Folder, Published, check_shots, hidden_files, verify
from ovparts_lib.vocabularies import load_vocabulary

README = "README of PartImageNet"
OTHER_FAMILY = "annotations of another super-category's part than the object's"
PUBLISHED_OOD = {"train": Published(16540, README), "val": Published(2957, README)}


def verify_partimagenet_seg(
    root: str | Path,
    *,
    synset_file: str | Path | None = None,
    cache_folder: str | Path | None = None,
    progress: bool = False,
) -> VerificationReport:
    """Read every file of the 40-object selection once and report what is wrong, each problem with its file.

    Checked are folders, annotation files and their ids, that every picture decodes to its end and has the size of its
    annotations, that every mask can be drawn, that every part is one its object has, and pictures shared by train and
    val. What the selection leaves out is counted; no sizes of it are published. Label counts are kept for the reader,
    and the report in its cache.

    Args:
        root: the folder that holds ``images``.
        synset_file: ImageNet's list of synsets to check against, part of the fingerprint; by default the one that the
            reader finds in ``root`` or beside it.
        cache_folder: see :class:`~ovparts_lib.data.readers.partimagenet.PartImageNet`.
        progress: show a progress bar.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    return _verify(PartImageNetSeg, root, synset_file, cache_folder, progress)


def verify_partimagenet_ood(
    root: str | Path,
    *,
    synset_file: str | Path | None = None,
    cache_folder: str | Path | None = None,
    progress: bool = False,
) -> VerificationReport:
    """The same for the out-of-distribution split, whose published counts are compared.

    Args:
        root: the folder that holds ``images``.
        synset_file: ImageNet's list of synsets to check against, part of the fingerprint; by default the one that the
            reader finds in ``root`` or beside it.
        cache_folder: see :class:`~ovparts_lib.data.readers.partimagenet.PartImageNet`.
        progress: show a progress bar.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    return _verify(PartImageNetOOD, root, synset_file, cache_folder, progress)


def _verify(
    reader: type[PartImageNet],
    root: str | Path,
    synset_file: str | Path | None,
    cache_folder: str | Path | None,
    progress: bool,
) -> VerificationReport:
    options = {"synset_file": synset_file, "cache_folder": cache_folder, "progress": progress}
    title = load_vocabulary(reader.name).title
    return verify(title, root, lambda: PartImageNetChecks(reader(root, **options)))


class PartImageNetChecks:
    """The rules of PartImageNet; see :class:`~ovparts_lib.data.verify.Checks`."""

    own_files = ("image",)

    def __init__(self, reader: PartImageNet) -> None:
        self.reader = reader
        self.published = PUBLISHED_OOD if reader.strict else {}
        files = (reader.root / SHOTS_FILE, reader.selection.synset_file)
        self.lists = [path for path in files if path is not None and path.is_file()]
        self.lists += [reader.selection.annotation_file(name) for name in FOLDERS]

    def list_folders(self, report: VerificationReport) -> dict[str, Folder]:
        """The pictures of the selection; what keeps a folder from being listed is a problem."""
        folders = {}
        for name in FOLDERS:
            try:
                listing = self.reader.listing(name)
            except DatasetError as error:
                report.problems.append(Problem.of(error))
                continue
            folders[name] = Folder(
                records=self.reader.pairs(name),
                files=list(self.reader.selection.picture_files(name).values()),
                hidden=hidden_files(self.reader.selection.picture_folders(name)),
                counts={
                    "images in the annotation file": len(listing.annotations.images),
                    "annotations": listing.annotations.instances,
                    **dict(sorted(listing.skipped.items())),
                    "pictures without annotations": len(listing.unlisted),
                },
            )
        return folders

    def check_listing(self, name: str, folder: Folder, report: VerificationReport) -> None:
        """Everything left out is a note; so are parts of another super-category, and unseen objects that OOD trains."""
        listing, vocabulary = self.reader.listing(name), self.reader.vocabulary
        for what, count in sorted(listing.skipped.items()):
            report.notes.append(f"{name}: {count:,} {what}")
        if listing.unlisted:
            report.notes.append(
                f"{name}: {len(listing.unlisted):,} pictures have no annotations and are not used, for example "
                f"{listing.unlisted[0].name}"
            )
        self._check_families(name, report)
        there = {picture.object_id for picture in listing.pictures}
        report.counts[name]["objects"] = len(there)
        expected, other = vocabulary.seen_object_ids, vocabulary.unseen_object_ids
        if name == "val":
            expected, other = other, expected
        if self.reader.strict and len(there) != len(expected):
            report.notes.append(f"{name}: {len(there)} objects; published are {len(expected)} ({README})")
        wrong = there & set(other)
        if self.reader.strict and wrong:
            kind = "unseen" if name == "train" else "seen"
            names = ", ".join(sorted(vocabulary.objects[object_id] for object_id in wrong)[:5])
            report.notes.append(f"{name}: holds pictures of {len(wrong)} {kind} objects: {names}")

    def _check_families(self, name: str, report: VerificationReport) -> None:
        """A bottle's body on a dog becomes the dog's body, as in the released code, which looks at the part alone."""
        vocabulary, wrong = self.reader.vocabulary, []
        families = [
            families_of(owner, (vocabulary.pairs[part][1] for part in vocabulary.parts_of(object_id)))
            for object_id, owner in enumerate(vocabulary.objects)
        ]
        for picture in self.reader.listing(name).pictures:
            for instance in picture.image.instances:
                if family(instance.category_id) not in families[picture.object_id]:
                    category, owner = PART_CATEGORIES[instance.category_id], vocabulary.objects[picture.object_id]
                    wrong.append(f"annotation {instance.id} of {picture.path.name}, a {category!r} on a {owner}")
        report.counts[name][OTHER_FAMILY] = len(wrong)
        if wrong:
            report.notes.append(
                f"{name}: {len(wrong):,} {OTHER_FAMILY}; they are read as the object's own part of that name, as the "
                f"released code reads them; for example {wrong[0]}"
            )

    def origin(self, record: Record, kind: str) -> Path:
        """The file that a picture or label map is read from."""
        return record.image_path if kind == "image" else record.part_path

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples, and how many have no part."""
        parts = range(len(self.reader.vocabulary.parts))
        seen = set(self.reader.vocabulary.seen_object_ids)
        pictures = self.reader.listing(name).pictures
        return {
            "samples without any part": sum(not labels.has_part(i, parts) for i in labels.image_ids),
            "samples of unseen objects": sum(picture.object_id not in seen for picture in pictures),
        }

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """The few-shot list, where somebody has put one."""
        path = self.reader.root / SHOTS_FILE
        if path.is_file():
            images = [record.image_id for record in folders["train"].records]
            check_shots(path, self.reader.few_shot_ids, images, "images/train", report)

"""The integrity check of Pascal-Part-116."""

from __future__ import annotations

from pathlib import Path

from ovparts_lib.data.readers.pascal_part_116 import FOLDERS, TITLE, PascalPart116
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts
from ovparts_lib.data.splits import SHOTS_FILE
from ovparts_lib.data.verification_report import Problem, VerificationReport
from ovparts_lib.data.verify import KINDS, Folder, Published, check_shots, hidden_files, verify

PUBLISHED = {
    "train": Published(8431, "OV-PARTS and PartCLIPSeg papers", about=True),
    "val": Published(850, "OV-PARTS and PartCLIPSeg papers", about=True),
}


def verify_pascal_part_116(
    root: str | Path, *, cache_folder: str | Path | None = None, progress: bool = False
) -> VerificationReport:
    """Read every file of Pascal-Part-116 once and report what is wrong, each problem with its file.

    Checked are folders, pairing by base name, that every picture and label file decodes to its end, depths, sizes,
    label ranges, pictures shared by train and val, and the 16-shot list. Unseen classes are labelled in the training
    files as released: the report counts their pixels, which the reader's remap takes out of zero-shot training. Label
    counts are kept for the readers. A second call on unchanged files (by name, size and modification time) takes the
    report from the cache.

    Args:
        root: the folder that holds ``images``.
        cache_folder: see :class:`~ovparts_lib.data.readers.pascal_part_116.PascalPart116`.
        progress: show a progress bar.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    return verify(TITLE, root, lambda: PascalChecks(PascalPart116(root, cache_folder=cache_folder, progress=progress)))


class PascalChecks:
    """The rules of Pascal-Part-116; see :class:`~ovparts_lib.data.verify.Checks`."""

    own_files = KINDS
    published = PUBLISHED

    def __init__(self, reader: PascalPart116) -> None:
        self.reader = reader
        self.lists = [path for path in [reader.root / SHOTS_FILE] if path.is_file()]

    def list_folders(self, report: VerificationReport) -> dict[str, Folder]:
        """Samples that have all three files; missing and empty folders are problems."""
        return {name: self._list_folder(name, report) for name in FOLDERS}

    def _list_folder(self, name: str, report: VerificationReport) -> Folder:
        files: dict[str, dict[str, Path]] = {}
        for kind in KINDS:
            try:
                files[kind] = self.reader.files(kind, name)
            except DatasetError as error:
                report.problems.append(Problem.of(error))
                continue
            if not files[kind]:
                folder = str(self.reader.folder(kind, name))
                report.problems.append(Problem(folder, "holds no files of the dataset", "Unpack the dataset again."))
        if len(files) < len(KINDS):
            return Folder([], [])
        complete = sorted(set(files["image"]) & set(files["object"]) & set(files["part"]))
        return Folder(
            records=[Record(*(files[kind][stem] for kind in ("image", "part", "object")), stem) for stem in complete],
            files=[path for paths in files.values() for path in paths.values()],
            hidden=hidden_files([self.reader.folder(kind, name) for kind in KINDS]),
            counts={f"{kind} files": len(files[kind]) for kind in KINDS},
        )

    def check_listing(self, name: str, folder: Folder, report: VerificationReport) -> None:
        """Pictures without labels are a note; labels without a picture, or one without the other, are problems."""
        files = {kind: self.reader.files(kind, name) for kind in KINDS}
        unlabelled = []
        for stem in sorted(set().union(*files.values())):
            there = [kind for kind in KINDS if stem in files[kind]]
            missing = [kind for kind in KINDS if kind not in there]
            if there == ["image"]:
                unlabelled.append(stem)
            elif missing:
                what = " and ".join("picture" if kind == "image" else f"{kind} labels" for kind in missing)
                path = files[there[-1]][stem]
                report.problems.append(
                    Problem(str(path), f"has no {what} of the same name", "Unpack the dataset again.")
                )
        if unlabelled:
            report.notes.append(
                f"{name}: {len(unlabelled)} pictures have no labels and are not used, for example {unlabelled[0]}"
            )

    def origin(self, record: Record, kind: str) -> Path:
        """The file that a picture or label map is read from."""
        return {"image": record.image_path, "object": record.object_path, "part": record.part_path}[kind]

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples and (image, object) records, and how many have no part."""
        vocabulary = self.reader.vocabulary
        parts = range(len(vocabulary.parts))
        conditions = [(i, o) for i in labels.image_ids for o in labels.objects_in(i, vocabulary.ignore_label)]
        return {
            "samples without any part": sum(not labels.has_part(i, parts) for i in labels.image_ids),
            "(image, object) records": len(conditions),
            "records without part pixels": sum(not labels.has_part(i, parts, o) for i, o in conditions),
        }

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """The 16-shot list."""
        images = list(self.reader.files("image", "train"))
        check_shots(self.reader.root / SHOTS_FILE, self.reader.few_shot_ids, images, "images/train", report)

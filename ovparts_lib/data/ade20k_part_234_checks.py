"""The integrity check of ADE20K-Part-234."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ovparts_lib.data.readers.ade20k_part_234 import FOLDERS, IMAGES, MARKER, SPLITS, TITLE, ADE20KPart234
from ovparts_lib.data.records import DatasetError, Record
from ovparts_lib.data.scan import LabelCounts
from ovparts_lib.data.splits import SHOTS_FILE
from ovparts_lib.data.verification_report import Problem, VerificationReport
from ovparts_lib.data.verify import Folder, Published, check_shots, hidden_files, verify

PUBLISHED = {
    "train": Published(7347, "OV-PARTS and PartCLIPSeg papers", about=True),
    "val": Published(1016, "OV-PARTS and PartCLIPSeg papers", about=True),
}


def verify_ade20k_part_234(
    root: str | Path, *, cache_folder: str | Path | None = None, progress: bool = False
) -> VerificationReport:
    """Read every file of ADE20K-Part-234 once and report what is wrong, each problem with its file.

    Beside what :func:`~ovparts_lib.data.verify.verify` checks for every dataset: the instance files (ids, categories,
    polygons, run lengths, instances outside their image), that every listed image has its picture and part labels, and
    the 16-shot list. Counted are instances, what was dropped from the files, and the records of the test sets, which
    take instances of unseen objects from the training images.

    Args:
        root: the folder that holds ``images``.
        cache_folder: see :class:`~ovparts_lib.data.readers.ade20k_part_234.ADE20KPart234`.
        progress: show a progress bar.

    Returns:
        The report; a missing folder is a problem in it, not an exception.
    """
    return verify(TITLE, root, lambda: AdeChecks(ADE20KPart234(root, cache_folder=cache_folder, progress=progress)))


class AdeChecks:
    """The rules of ADE20K-Part-234; see :class:`~ovparts_lib.data.verify.Checks`."""

    own_files = ("image", "part")
    published = PUBLISHED

    def __init__(self, reader: ADE20KPart234) -> None:
        self.reader = reader
        self.built = (reader.root / MARKER).is_file()
        lists = [*(reader.annotation_path(name) for name in FOLDERS), reader.root / SHOTS_FILE]
        self.lists = [path for path in lists if path.is_file()]

    def list_folders(self, report: VerificationReport) -> dict[str, Folder]:
        """Listed images that have picture and part labels; missing folders and wrong instance files are problems."""
        return {name: self._list_folder(name, report) for name in FOLDERS}

    def _list_folder(self, name: str, report: VerificationReport) -> Folder:
        problems = len(report.problems)
        folders = [self.reader.folder(kind, name) for kind in self.own_files]
        for folder in folders:
            if not folder.is_dir():
                report.problems.append(Problem(str(folder), "no such folder", f"Unpack {TITLE} again."))
        try:
            annotations = self.reader.annotations(name)
            if not annotations.images and not self.built:
                report.problems.append(Problem(str(annotations.path), "lists no images", f"Unpack {TITLE} again."))
        except DatasetError as error:
            report.problems.append(Problem.of(error))
        if len(report.problems) > problems:
            return Folder([], [])
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        hidden = set(hidden_files(folders))
        there = set(files)
        return Folder(
            records=[r for r in self.reader.pairs(name) if r.image_path in there and r.part_path in there],
            files=sorted(there - hidden),
            hidden=sorted(hidden),
            counts={
                "listed images": len(annotations.images),
                "image files": sum(path.is_relative_to(folders[0]) for path in there - hidden),
                "part files": sum(path.is_relative_to(folders[1]) for path in there - hidden),
                "object instances": annotations.instances,
                **annotations.dropped,
            },
        )

    def check_listing(self, name: str, folder: Folder, report: VerificationReport) -> None:
        """Listed images without picture or labels are problems; files that are not listed are a note."""
        there, listed = set(folder.files), set()
        for record in self.reader.pairs(name):
            listed |= {record.image_path, record.part_path}
            for path, what in ((record.image_path, "picture"), (record.part_path, "part label file")):
                if path not in there:
                    listing = self.reader.annotation_path(name).name
                    report.problems.append(
                        Problem(str(path), f"no such {what}, but {listing} lists it", f"Unpack {TITLE} again.")
                    )
        unused = sorted(there - listed)
        if unused:
            report.notes.append(
                f"{name}: {len(unused)} files are of no listed image and not used, for example {unused[0].name}"
            )

    def origin(self, record: Record, kind: str) -> Path:
        """The file that a picture or label map is read from."""
        if kind == "object":
            folder = record.image_path.relative_to(self.reader.root / IMAGES).parts[0]
            return self.reader.annotation_path(next(name for name, own in FOLDERS.items() if own == folder))
        return record.image_path if kind == "image" else record.part_path

    def count_records(self, name: str, labels: LabelCounts) -> dict[str, int]:
        """Samples and instances, and how many have no part."""
        reader = self.reader
        parts, unseen = range(len(reader.vocabulary.parts)), set(reader.vocabulary.unseen_object_ids)
        split = next(s for s, how in SPLITS.items() if how.conditioned and how.folder == name)
        own = reader.instances(name)
        return {
            "samples without any part": sum(not labels.has_part(i, parts) for i in labels.image_ids),
            "instances of unseen objects": sum(record.object_id in unseen for record in own),
            "instances without part pixels": sum(not reader.has_part(split, record, parts) for record in own),
        }

    def check_rest(self, folders: dict[str, Folder], report: VerificationReport) -> None:
        """Where the dataset comes from, the 16-shot list, and how the test sets are made up."""
        reader = self.reader
        if self.built:
            report.notes.append(
                "built from the full release of ADE20K, not the archive that OV-PARTS released: pictures and instances "
                "were not chosen in the same way, and published scores are not comparable exactly"
            )
        images = [record.image_id for record in reader.pairs("train")]
        check_shots(reader.root / SHOTS_FILE, reader.few_shot_ids, images, "images/training", report)
        for split, how in SPLITS.items():
            if not how.unseen_of_training or (how.without_shots and not (reader.root / SHOTS_FILE).is_file()):
                continue
            try:
                records = reader.records(split)
            except DatasetError:  # the list or the annotations are wrong, which is reported already
                continue
            in_train = [r for r in records if r.image_path.is_relative_to(reader.folder("image", "train"))]
            report.notes.append(
                f"{split}: {len(records):,} records in {len({r.image_path for r in records}):,} images, of which "
                f"{len(in_train):,} are instances of unseen objects in {len({r.image_path for r in in_train}):,} "
                "training images (as released: zero-shot training sees these images, with unseen classes ignored)"
            )


def instance_table(reader: ADE20KPart234) -> pd.DataFrame:
    """Instances of each object in the training and validation images, and in the test set of zero-shot runs.

    Returns:
        One row per object in label order: ``object``, ``seen``, ``train``, ``val``, ``test`` (``val_obj_condition``).
    """
    vocabulary = reader.vocabulary
    listed = {name: reader.instances(name) for name in FOLDERS} | {"test": reader.records("val_obj_condition")}
    unseen = set(vocabulary.unseen_object_ids)
    table = {"object": vocabulary.objects, "seen": [i not in unseen for i in range(len(vocabulary.objects))]}
    for name, records in listed.items():
        table[name] = np.bincount([record.object_id for record in records], minlength=len(vocabulary.objects))
    return pd.DataFrame(table)

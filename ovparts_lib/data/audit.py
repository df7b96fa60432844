"""What a training split may have shown of a test split: pictures, and words, also across datasets."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ovparts_lib.data.records import Record
from ovparts_lib.vocabularies import PartVocabulary


def shared_pictures(training: Iterable[Record], test: Iterable[Record]) -> list[tuple[Path, Path]]:
    """Pictures of a test split that are training pictures too, under whatever name.

    Only files of equal size are read; contents are compared byte for byte (by SHA-256).

    Returns:
        Pairs (training picture, test picture), sorted by the test picture's path.
    """
    trained, tested = ({record.image_path for record in records} for records in (training, test))
    of_size: dict[int, list[Path]] = defaultdict(list)
    for path in trained:
        of_size[path.stat().st_size].append(path)
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return digests[path]

    pairs = []
    for path in sorted(tested):
        twin = next((other for other in sorted(of_size[path.stat().st_size]) if digest(other) == digest(path)), None)
        if twin is not None:
            pairs.append((twin, path))
    return pairs


def words_known_from_training(training: PartVocabulary, test: PartVocabulary) -> pd.DataFrame:
    """Parts that the test vocabulary calls unseen although training had a class of the same name.

    In a cross-dataset run, seen and unseen are the test dataset's own division; what the other dataset's training has
    shown is another matter, and this table says which unseen classes it concerns.

    Returns:
        Columns object, part; one row per such part, in label order.
    """
    known = set(training.parts)
    rows = [
        (test.objects[test.part_to_object[part]], test.parts[part])
        for part in test.unseen_part_ids
        if test.parts[part] in known
    ]
    return pd.DataFrame(rows, columns=["object", "part"])

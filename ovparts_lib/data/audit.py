"""What a split holds, and what a training split may have shown of a test split: pictures and words."""

from collections import defaultdict
from collections.abc import Iterable
from filecmp import cmp
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from ovparts_lib.data.files import Record
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary


def class_frequencies(reader: Reader, split: str) -> pd.DataFrame:
    """How often each class of the full vocabulary occurs in the images of a split, before any remap.

    Returns:
        One row per class in label order: ``part`` and ``object``, or ``class``; ``seen``, ``pixels``, ``images``.
    """
    vocabulary, counts = reader.vocabulary, reader.scan(split)
    classes = vocabulary.classes
    listed = {record.image_id for record in reader.records(split)}
    wanted = np.array([image_id in listed for image_id in counts.image_ids], dtype=bool)
    rows = counts.rows[wanted[counts.rows[:, 0]] & (counts.rows[:, 2] < len(classes))]
    pixels = np.bincount(rows[:, 2], rows[:, 3], minlength=len(classes)).astype(np.int64)
    part_in_image = np.unique(rows[:, [0, 2]], axis=0)
    images = np.bincount(part_in_image[:, 1], minlength=len(classes))
    of_parts = isinstance(vocabulary, PartVocabulary)
    names = {"part": classes, "object": [owner for owner, _ in vocabulary.pairs]} if of_parts else {"class": classes}
    seen = [*map(vocabulary.is_seen, range(len(classes)))]
    return pd.DataFrame({**names, "seen": seen, "pixels": pixels, "images": images})


def instance_table(reader: ADE20KPart234) -> pd.DataFrame:
    """Instances of each object in the training and validation images, and in the test set of zero-shot runs.

    Returns:
        One row per object in label order: ``object``, ``seen``, ``train``, ``val``, ``test`` (``val_obj_condition``).
    """
    vocabulary = reader.vocabulary
    listed = {name: reader.instances(name) for name in reader.folders} | {"test": reader.records("val_obj_condition")}
    unseen = set(vocabulary.unseen_object_ids)
    table = {"object": vocabulary.objects, "seen": [i not in unseen for i in range(len(vocabulary.objects))]}
    for name, records in listed.items():
        table[name] = np.bincount([record.object_id for record in records], minlength=len(vocabulary.objects))
    return pd.DataFrame(table)


def shared_pictures(training: Iterable[Record], test: Iterable[Record]) -> list[tuple[Path, Path]]:
    """Pictures of a test split that are training pictures too, under whatever name.

    Only files of equal size are read; contents are compared byte for byte.

    Returns:
        Pairs (training picture, test picture), sorted by the test picture's path.
    """
    trained, tested = ({record.image_path for record in records} for records in (training, test))
    of_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(trained):
        of_size[path.stat().st_size].append(path)
    pairs = []
    for path in sorted(tested):
        twins = (other for other in of_size[path.stat().st_size] if cmp(other, path, shallow=False))
        pairs += [(twin, path) for twin in islice(twins, 1)]
    return pairs


def words_known_from_training(training: PartVocabulary, test: PartVocabulary) -> pd.DataFrame:
    """Parts that the test vocabulary calls unseen although training had a class of the same name.

    In a cross-dataset run, seen and unseen are the test dataset's own division; what the other dataset's training has
    shown is another matter, and this table says which unseen classes it concerns.

    Returns:
        Columns object, part; one row per such part, in label order.
    """
    known = set(training.parts)
    rows = [(test.pairs[part][0], test.parts[part]) for part in test.unseen_ids if test.parts[part] in known]
    return pd.DataFrame(rows, columns=["object", "part"])


def classes_seen_in_training(training: Vocabulary, test: Vocabulary) -> pd.DataFrame:
    """Which classes of a test list were classes of the training list (COCO-Stuff, say) under one of their names.

    The object-level benchmarks are called zero-shot, but their lists overlap: "person" is in most. Names are compared
    without regard to case, and each synonym of ``"altar, communion table"`` counts as a name, as does what a name of
    COCO-Stuff specialises: ``"wall-brick"`` is a wall.

    Returns:
        One row per test class in label order: ``class``, ``seen`` (bool), and ``training classes`` that share a name.
    """
    known: dict[str, list[str]] = defaultdict(list)
    for name in training.classes:
        for synonym in _synonyms(name):
            known[synonym].append(name)
    found = [list(dict.fromkeys(match for s in _synonyms(name) for match in known[s])) for name in test.classes]
    named = ["; ".join(matches) for matches in found]
    return pd.DataFrame({"class": test.classes, "seen": list(map(bool, found)), "training classes": named})


def _synonyms(name: str) -> list[str]:
    names = [" ".join(synonym.lower().split()) for synonym in name.split(",")]
    return names + [name.partition("-")[0] for name in names if "-" in name]

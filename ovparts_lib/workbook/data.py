"""Datasets as a notebook uses them: verified, opened, counted and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ovparts_lib.data import (
    ClassEvaluationDataset,
    ClassTrainingDataset,
    DatasetError,
    EvaluationDataset,
    Reader,
    Record,
    TrainingDataset,
    VerificationReport,
    class_frequencies,
    training_transform,
)
from ovparts_lib.data.ade20k_source import build_ade20k_part_234
from ovparts_lib.data.audit import (
    classes_seen_in_training,
    instance_table,
    shared_pictures,
    words_known_from_training,
)
from ovparts_lib.data.dataset import read_classes
from ovparts_lib.data.few_shot import ShotList, with_drawn_shots
from ovparts_lib.data.registry import find_dataset, open_reader, verify_dataset
from ovparts_lib.inspection import frequency_bars, label_grid
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary, load_vocabulary
from ovparts_lib.workbook.output import RunOutput


@dataclass(frozen=True)
class PartData:
    """A verified dataset, opened for a run.

    Attributes:
        training: samples in the training vocabulary; None where the run trains nothing.
        evaluation: images with all their records, in the full vocabulary; of another dataset in a cross-dataset run.
    """

    training: TrainingDataset | ClassTrainingDataset | None
    evaluation: EvaluationDataset | ClassEvaluationDataset

    @property
    def of_parts(self) -> bool:
        """Whether classes are parts, rather than whole objects and stuff."""
        return isinstance(self.evaluation.vocabulary, PartVocabulary)

    def overview(self) -> pd.DataFrame:
        """One row for training and one for evaluation: split, images or records, classes, what was skipped."""
        rows = []
        if self.training is not None:
            vocabulary = self.training.vocabulary
            rows.append(
                {
                    "used for": "training",
                    "split": self.training.split,
                    "images": len(self.training),
                    "skipped": self.training.skipped,
                    **_sizes(vocabulary),
                    "vocabulary": vocabulary.hash,
                }
            )
        vocabulary = self.evaluation.vocabulary
        rows.append(
            {
                "used for": "evaluation",
                "split": self.evaluation.split,
                "images": len(self.evaluation),
                "skipped": self.evaluation.skipped_records,
                **_sizes(vocabulary),
                "vocabulary": vocabulary.hash,
            }
        )
        return pd.DataFrame(rows)


def _sizes(vocabulary: Vocabulary) -> dict[str, int]:
    """How many classes there are, for a row of a table."""
    if isinstance(vocabulary, PartVocabulary):
        return {"parts": len(vocabulary.parts), "objects": len(vocabulary.objects)}
    return {"classes": len(vocabulary.classes)}


def verify_data(params: Any, output: RunOutput) -> tuple[Reader, VerificationReport]:
    """Check every file of the dataset at ``params.data_root``, keep the report as a table, and open the dataset."""
    reader, report = _verify(params.dataset, params.data_root, output, "verification")
    output.run.record_once(dataset_fingerprint=report.fingerprint)
    return reader, report


def build_data(params: Any, output: RunOutput) -> None:
    """Build ADE20K-Part-234 at ``params.data_root`` from the full release of ADE20K, if the parameters name one.

    Raises:
        DatasetError: ``params.source`` is not the release, or ``params.data_root`` holds something else.
    """
    if params.source is None:
        print(f"nothing to build: {params.data_root} is taken as it is (source)")
        return
    report = build_ade20k_part_234(resolve_path(params.source), resolve_path(params.data_root))
    print(report)
    output.table(report.counts_frame(), "build_counts", title="What the build found")
    output.table(report.objects_frame(), "build_objects", title="Objects found")
    output.table(report.to_frame(), "build_parts", title="Parts found")
    output.table(report.problems_frame(), "build_problems", title="Pictures left out")


def open_data(params: Any, output: RunOutput) -> PartData:
    """Verify and open the training and test split of a run.

    Raises:
        DatasetError: a dataset is wrong, or a split is empty.
    """
    scored, report = _verify(params.scored_dataset, params.scored_root, output, "verification")
    report.raise_if_wrong()
    output.run.record_once(dataset_fingerprint=report.fingerprint)
    trained = scored
    if params.iterations and params.test_dataset:
        trained, report = _verify(params.dataset, params.data_root, output, "verification_training")
        report.raise_if_wrong()
        output.run.record_once(training_fingerprint=report.fingerprint)
    trained, drawn = with_shots(params, trained)
    if drawn is not None:
        _show_draw(drawn, output)
        if not params.test_dataset:
            scored = trained  # the test split leaves out the images that were drawn
    training = open_training(params, trained) if params.iterations else None
    if isinstance(scored.vocabulary, PartVocabulary):
        evaluation = EvaluationDataset(scored, params.test_split, empty_samples=params.empty_samples)
    else:
        evaluation = ClassEvaluationDataset(scored, params.test_split)
    data = PartData(training, evaluation)
    if training is not None and params.test_dataset:
        _refuse_shared_pictures(training, scored.records(params.test_split))
    if training is not None and params.test_dataset and data.of_parts:
        known = words_known_from_training(training.vocabulary, scored.vocabulary)
        print(f"{len(known)} parts that {params.test_dataset} calls unseen are classes of the training data")
        output.table(known, "words_known_from_training", title="Unseen test classes that training has shown")
    output.note(vocabulary_hash=data.evaluation.vocabulary.hash)
    return data


def with_shots(params: Any, reader: Reader) -> tuple[Reader, ShotList | None]:
    """The training data with the run's drawn few-shot list, if it draws one, and the list."""
    if params.shots is None:
        return reader, None
    return with_drawn_shots(reader, params.shots, params.shots_seed, shortfall="report")


def _show_draw(drawn: ShotList, output: RunOutput) -> None:
    short = drawn.shortfalls
    missing = f"; fewer there are of {', '.join(f'{name} ({count})' for name, count in short.items())}" if short else ""
    print(f"drawn: {len(drawn.image_ids)} images, {drawn.shots} for each {drawn.per}{missing}")
    output.table(drawn.to_frame(), "shots", title=f"Images drawn for each {drawn.per}")
    images = [(name, image_id) for name, ids in drawn.drawn.items() for image_id in ids]
    output.table(pd.DataFrame(images, columns=[drawn.per, "image"]), "shot_images", title="The images drawn")


def _refuse_shared_pictures(training: TrainingDataset, tested: Sequence[Record]) -> None:
    """A picture of one dataset may be in another one, too; what is trained on must not be scored on.

    Within a dataset its verification sees to that, and the test set of ADE20K-Part-234 holds training images by
    definition, for their unseen objects.
    """
    pairs = shared_pictures(training.records, tested)
    if pairs:
        first, second = pairs[0]
        raise DatasetError(
            f"is also trained on, as {first} ({len(pairs)} pictures in all)",
            file=second,
            what_to_do="Choose splits that have no picture in common, or remove the pictures from one of them.",
        )


def _verify(dataset: str, root: str, output: RunOutput, table: str) -> tuple[Reader, VerificationReport]:
    path = resolve_path(root)
    report = verify_dataset(dataset, path)
    output.table(report.to_frame(), table, title=f"What the verification of {report.dataset} found")
    output.note(**{f"{table}_counts": report.counts})
    return open_reader(dataset, path), report


def open_training(params: Any, reader: Reader) -> TrainingDataset | ClassTrainingDataset:
    """The training split of a run, with the run's augmentation."""
    size = SYSTEMS[params.system].sizes[params.model_size]
    transform = training_transform(
        shortest_edge=params.shortest_edge,
        longest_edge=params.longest_edge,
        flip=params.flip,
        label_resize=params.label_resize,
        augmentation=params.augmentation,
        **params.transform_options(size, reader.vocabulary.ignore_label),
    )
    if not isinstance(reader.vocabulary, PartVocabulary):
        return ClassTrainingDataset(reader, params.train_split, transform)
    per_object = SYSTEMS[params.system].model_class.needs_regions
    return TrainingDataset(reader, params.train_split, transform, per_object=per_object)


def show_samples(reader: Reader, split: str, count: int, output: RunOutput) -> None:
    """Pictures under their labels, spread evenly over a split, with the pixels of each class as CSV."""
    records = {record.image_id: record for record in reader.records(split)}
    chosen = [list(records.values())[i] for i in np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)]
    samples = [read_classes(reader, record) for record in chosen]
    figure = label_grid(
        [image for image, _ in samples],
        [label_map for _, label_map in samples],
        reader.vocabulary,
        titles=[record.image_id for record in chosen],
    )
    rows, column = [], "part" if isinstance(reader.vocabulary, PartVocabulary) else "class"
    for record, (_, label_map) in zip(chosen, samples, strict=True):
        labels, pixels = np.unique(label_map[label_map != reader.vocabulary.ignore_label], return_counts=True)
        names = [reader.vocabulary.classes[label] for label in labels]
        rows.append(pd.DataFrame({"image": record.image_id, column: names, "pixels": pixels}))
    output.figure(
        figure,
        f"samples_{split}",
        title=f"Samples of {split}",
        caption="Labels laid over their pictures; the legend names the classes that occur.",
        data=pd.concat(rows, ignore_index=True),
    )


def class_frequency_table(reader: Reader, split: str) -> pd.DataFrame:
    """How often each class occurs in a split; those that never occur are left out."""
    frequencies = class_frequencies(reader, split)
    return frequencies[frequencies["images"] > 0].reset_index(drop=True)


def instance_counts(reader: Reader, output: RunOutput) -> pd.DataFrame:
    """Instances of each object in the training and validation images, and how many of them have parts."""
    return output.table(instance_table(reader), "instances", title="Object instances")


def leakage_table(training: Vocabulary, tests: Sequence[str]) -> pd.DataFrame:
    """How much of each object-level test list a training list names already; a row per test list."""
    rows = []
    for name in tests:
        found = classes_seen_in_training(training, load_vocabulary(name))
        unseen = list(found.loc[~found["seen"], "class"])
        rows.append(
            {
                "test list": find_dataset(name).title,
                "classes": len(found),
                "seen in training": int(found["seen"].sum()),
                "unseen": len(unseen),
                "such as": "; ".join(unseen[:6]),
            }
        )
    return pd.DataFrame(rows)


def labelled_classes(params: Any, data: PartData) -> Vocabulary:
    """The classes that training has shown: those with a labelled pixel; of a checkpoint, its data set's whole list."""
    if data.training is None:
        return load_vocabulary(params.dataset)
    frequencies = class_frequencies(data.training.reader, data.training.split)
    vocabulary = data.training.vocabulary
    shown = [name for name, images in zip(frequencies.iloc[:, 0], frequencies["images"], strict=True) if images]
    return Vocabulary(f"{vocabulary.name}_labelled", tuple(shown), frozenset(), vocabulary.ignore_label)


def frequency_chart(frequencies: pd.DataFrame) -> Figure:
    """Images per class, parts grouped by object, unseen classes marked."""
    return frequency_bars(frequencies)


def split_table(reader: Reader) -> pd.DataFrame:
    """Records and images of every split, and how many records have no part to train or score."""
    rows = []
    for split in reader.splits:
        try:
            records, vocabulary = reader.records(split), reader.training_vocabulary(split)
        except DatasetError as error:
            print(f"{split} is left out: {error}")
            continue
        useful = np.flatnonzero(reader.vocabulary.table(vocabulary) != vocabulary.ignore_label)
        kept = sum(reader.has_part(split, record, useful) for record in records)
        rows.append(
            {
                "split": split,
                "one record is": _what_a_record_is(records[0]),
                "records": len(records),
                "without labels, skipped": len(records) - kept,
                "images": len({record.image_id for record in records}),
                "classes": len(vocabulary.classes),
            }
        )
    return pd.DataFrame(rows)


def _what_a_record_is(record: Record) -> str:
    if record.instance is not None:
        return "object instance"
    return "image" if record.object_id is None else "image × object"

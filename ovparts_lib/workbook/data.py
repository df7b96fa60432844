"""Datasets as a notebook uses them: verified, opened, counted and shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ovparts_lib import inspection
from ovparts_lib.data.ade20k_source import build_ade20k_part_234
from ovparts_lib.data.audit import (
    class_frequencies,
    classes_seen_in_training,
    instance_table,
    shared_pictures,
    words_known_from_training,
)
from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset, read_sample
from ovparts_lib.data.few_shot import ShotList, draw_shots
from ovparts_lib.data.files import DatasetError, Record
from ovparts_lib.data.readers.base import Reader
from ovparts_lib.data.registry import find_dataset, open_reader, verify_dataset
from ovparts_lib.data.transforms import training_transform
from ovparts_lib.data.verification_report import VerificationReport, problem_table
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary, load_vocabulary
from ovparts_lib.workbook.output import RunOutput


@dataclass(frozen=True)
class OpenedData:
    """A verified dataset, opened for a run.

    Attributes:
        training: samples in the training vocabulary; None where the run trains nothing.
        evaluation: images with all their records, in the full vocabulary; of another dataset in a cross-dataset run.
    """

    training: TrainingDataset | None
    evaluation: EvaluationDataset

    def overview(self) -> Panel:
        """One row for training and one for evaluation: split, images or records, classes, what was skipped."""
        used = [("evaluation", self.evaluation, self.evaluation.skipped_records)]
        if self.training is not None:
            used.insert(0, ("training", self.training, self.training.skipped))
        rows = []
        for use, dataset, skipped in used:
            row = {"used for": use, "split": dataset.split, "images": len(dataset), "skipped": skipped}
            rows.append(row | _sizes(dataset.vocabulary) | {"vocabulary": dataset.vocabulary.hash})
        return Panel("data", table=pd.DataFrame(rows), title="Data of this run")

    def trained_classes(self, dataset: str) -> Vocabulary:
        """The classes that training has shown: those with a labelled pixel.

        Args:
            dataset: that a checkpoint was trained on, whose whole list is taken where nothing trains here.
        """
        if self.training is None:
            return load_vocabulary(dataset)
        frequencies = class_frequencies(self.training.reader, self.training.split)
        shown = frequencies.loc[frequencies["images"] > 0].iloc[:, 0]
        vocabulary = self.training.vocabulary
        return Vocabulary(f"{vocabulary.name}_labelled", tuple(shown), frozenset(), vocabulary.ignore_label)


def _sizes(vocabulary: Vocabulary) -> dict[str, int]:
    """How many classes there are, for a row of a table."""
    if isinstance(vocabulary, PartVocabulary):
        return {"parts": len(vocabulary.parts), "objects": len(vocabulary.objects)}
    return {"classes": len(vocabulary.classes)}


def verify_data(dataset: str, data_root: str, output: RunOutput) -> tuple[Reader, VerificationReport]:
    """Check every file of the dataset at ``data_root``, keep the report as a table, and open the dataset."""
    reader, report = _verify(dataset, data_root, output, "verification")
    output.run.record_once(dataset_fingerprint=report.fingerprint)
    return reader, report


def build_data(source: str | None, data_root: str) -> Iterator[Panel]:
    """Build ADE20K-Part-234 at ``data_root`` from the full release of ADE20K at ``source``, if there is one.

    Raises:
        DatasetError: ``source`` is not the release, or ``data_root`` holds something else.
    """
    if source is None:
        yield Panel("build_counts", title="Build", caption=f"{data_root} is taken as it is (source)")
        return
    report = build_ade20k_part_234(resolve_path(source), resolve_path(data_root))
    print(report.to_markdown())
    counts = pd.DataFrame(report.counts).rename_axis("count").reset_index()
    yield Panel("build_counts", table=counts, title="What the build found")
    yield Panel("build_problems", table=problem_table(report.problems), title="Pictures left out", caption="none")


def open_data(params: SystemOptions, output: RunOutput) -> OpenedData:
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
    data = OpenedData(training, EvaluationDataset(scored, params.test_split, empty_samples=params.empty_samples))
    if training is not None and params.test_dataset:
        _refuse_shared_pictures(training, scored.records(params.test_split))
    if training is not None and params.test_dataset and isinstance(scored.vocabulary, PartVocabulary):
        known = words_known_from_training(training.vocabulary, scored.vocabulary)
        print(f"parts that {params.test_dataset} calls unseen and training has shown: {len(known)}")
        title = "Unseen test classes that training has shown"
        output.keep(Panel("words_known_from_training", table=known, title=title))
    output.note(vocabulary_hash=data.evaluation.vocabulary.hash)
    return data


def with_shots(params: SystemOptions, reader: Reader) -> tuple[Reader, ShotList | None]:
    """The training data with the run's drawn few-shot list, if it draws one, and the list."""
    if params.shots is None:
        return reader, None
    drawn = draw_shots(reader, params.shots, params.shots_seed)
    return reader.using_shots(drawn.image_ids), drawn


def _show_draw(drawn: ShotList, output: RunOutput) -> None:
    short = drawn.shortfalls
    missing = f"; fewer there are of {', '.join(f'{name} ({count})' for name, count in short.items())}" if short else ""
    print(f"drawn: {len(drawn.image_ids)} images, {drawn.shots} for each object{missing}")
    output.keep(Panel("shots", table=drawn.to_frame(), title="Images drawn for each object"))
    images = pd.DataFrame([(n, i) for n, ids in drawn.drawn.items() for i in ids], columns=["object", "image"])
    output.keep(Panel("shot_images", table=images, title="The images drawn"))


def _refuse_shared_pictures(training: TrainingDataset, tested: Sequence[Record]) -> None:
    """A picture of one dataset may be in another one, too; what is trained on must not be scored on.

    Within a dataset its verification sees to that, and the test set of ADE20K-Part-234 holds training images by
    definition, for their unseen objects.
    """
    pairs = shared_pictures(training.records, tested)
    if pairs:
        first, second = pairs[0]
        what = f"is also trained on, as {first} ({len(pairs)} pictures in all)"
        advice = "Choose splits that have no picture in common, or remove the pictures from one of them."
        raise DatasetError(second, what, advice)


def _verify(dataset: str, root: str, output: RunOutput, table: str) -> tuple[Reader, VerificationReport]:
    path = resolve_path(root)
    report = verify_dataset(dataset, path)
    title = f"What the verification of {report.dataset} found"
    output.keep(Panel(table, table=problem_table(report.problems), title=title))
    output.note(**{f"{table}_counts": report.counts})
    return open_reader(dataset, path), report


def open_training(params: SystemOptions, reader: Reader) -> TrainingDataset:
    """The training split of a run, with the run's augmentation."""
    size = SYSTEMS[params.system].sizes[params.model_size]
    common = params.chosen("shortest_edge", "longest_edge", "flip", "label_resize", "augmentation")
    transform = training_transform(**common, **params.transform_options(size, reader.vocabulary.ignore_label))
    per_object = SYSTEMS[params.system].model_class.needs_regions
    return TrainingDataset(reader, params.train_split, transform, per_object=per_object)


def sample_panel(reader: Reader, split: str, count: int) -> Panel:
    """Pictures under their labels, spread evenly over a split."""
    records = list({record.image_id: record for record in reader.records(split)}.values())
    chosen = [records[i] for i in np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)]
    samples = [read_sample(reader, record) for record in chosen]
    images, label_maps = [sample[0] for sample in samples], [sample[-1] for sample in samples]
    return inspection.label_grid(images, label_maps, reader.vocabulary, [r.image_id for r in chosen], split)


def frequency_panel(reader: Reader, split: str) -> Panel:
    """How often each class occurs in a split."""
    return inspection.frequency_bars(class_frequencies(reader, split), reader.vocabulary, split)


def instance_counts(reader: Reader) -> Panel:
    """Instances of each object in the training and validation images, and how many of them have parts."""
    return Panel("instances", table=instance_table(reader), title="Object instances")


def leakage_table(training: Vocabulary, tests: Sequence[str]) -> Panel:
    """How much of each object-level test list a training list names already; a row per test list."""
    rows = []
    for name in tests:
        found = classes_seen_in_training(training, load_vocabulary(name))
        unseen = list(found.loc[~found["seen"], "class"])
        seen = len(found) - len(unseen)
        rows.append((find_dataset(name).title, len(found), seen, len(unseen), "; ".join(unseen[:6])))
    table = pd.DataFrame(rows, columns=["test list", "classes", "seen in training", "unseen", "such as"])
    return Panel("leakage", table=table, title="Test classes that the training list names")


def split_table(reader: Reader) -> Panel:
    """Records and images of every split, and how many records have no part to train or score."""
    rows = []
    for split in reader.settings:
        try:
            records, vocabulary = reader.records(split), reader.training_vocabulary(split)
        except DatasetError as error:
            print(f"{split} is left out: {error}")
            continue
        useful = np.flatnonzero(reader.vocabulary.table(vocabulary) != vocabulary.ignore_label)
        kept = sum(reader.has_part(split, record, useful) for record in records)
        images, what = len({record.image_id for record in records}), _what_a_record_is(records[0])
        rows.append((split, what, len(records), len(records) - kept, images, len(vocabulary.classes)))
    columns = ["split", "one record is", "records", "without labels, skipped", "images", "classes"]
    return Panel("splits", table=pd.DataFrame(rows, columns=columns), title="Splits")


def _what_a_record_is(record: Record) -> str:
    if record.instance is not None:
        return "object instance"
    return "image" if record.object_id is None else "image × object"

"""Datasets as a notebook uses them: verified, opened, counted and shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ovparts_lib.data import (
    EvaluationDataset,
    PascalPart116,
    TrainingDataset,
    class_frequencies,
    training_transform,
    verify_pascal_part_116,
)
from ovparts_lib.data.part_dataset import read_sample
from ovparts_lib.data.pascal_part_116 import SPLITS
from ovparts_lib.data.verification_report import VerificationReport
from ovparts_lib.inspection import frequency_bars, label_grid
from ovparts_lib.models.clipseg import MINIATURE_CLIPSEG, RELEASED, ClipsegSize
from ovparts_lib.runs import resolve_path
from ovparts_lib.workbook.output import RunOutput

CLIPSEG_SIZES: dict[str, ClipsegSize] = {"released": RELEASED, "miniature": MINIATURE_CLIPSEG}
FEW_SHOT_LIST = "train_16shot.json"


@dataclass(frozen=True)
class PartData:
    """A verified dataset, opened for a run.

    Attributes:
        reader: the dataset on disk.
        report: what the verification found.
        training: samples in the training vocabulary; None where the run trains nothing.
        evaluation: images with all their records, in the full vocabulary.
    """

    reader: PascalPart116
    report: VerificationReport
    training: TrainingDataset | None
    evaluation: EvaluationDataset

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
                    "parts": len(vocabulary.parts),
                    "objects": len(vocabulary.objects),
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
                "parts": len(vocabulary.parts),
                "objects": len(vocabulary.objects),
                "vocabulary": vocabulary.hash,
            }
        )
        return pd.DataFrame(rows)


def verify_data(params: Any, output: RunOutput) -> tuple[PascalPart116, VerificationReport]:
    """Check every file of the dataset at ``params.data_root``, keep the report as a table, and open the dataset."""
    root = resolve_path(params.data_root)
    report = verify_pascal_part_116(root)
    output.table(report.to_frame(), "verification", title="What the verification found")
    output.run.record_once(dataset_fingerprint=report.fingerprint)
    output.note(dataset_counts=report.counts)
    return PascalPart116(root), report


def open_data(params: Any, output: RunOutput) -> PartData:
    """Verify and open the training and test split of a run.

    Raises:
        DatasetError: the dataset is wrong, or a split is empty.
    """
    reader, report = verify_data(params, output)
    report.raise_if_wrong()
    training = open_training(params, reader) if params.iterations else None
    data = PartData(reader, report, training, EvaluationDataset(reader, params.test_split))
    output.note(vocabulary_hash=data.evaluation.vocabulary.hash)
    return data


def open_training(params: Any, reader: PascalPart116) -> TrainingDataset:
    """The training split of a run, with the run's augmentation.

    Loading ends with CLIPSeg's squashing to a square, so that workers hand over small pictures of one size.
    """
    transform = training_transform(
        shortest_edge=params.shortest_edge,
        longest_edge=params.longest_edge,
        flip=params.flip,
        final_size=CLIPSEG_SIZES[params.model_size].image_size,
        label_resize=params.label_resize,
        channel_order=params.channel_order,
    )
    return TrainingDataset(reader, params.train_split, transform)


def sample_grid(reader: PascalPart116, split: str, count: int) -> Figure:
    """Pictures beside their part labels, spread evenly over a split."""
    records = {record.image_id: record for record in reader.records(split)}
    chosen = [list(records.values())[i] for i in np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)]
    samples = [read_sample(reader, record) for record in chosen]
    return label_grid(
        [image for image, _, _ in samples],
        [part_map for _, _, part_map in samples],
        reader.vocabulary,
        titles=[record.image_id for record in chosen],
    )


def class_frequency_table(reader: PascalPart116, split: str) -> pd.DataFrame:
    """How often each part occurs in a split; parts that never occur are left out."""
    frequencies = class_frequencies(reader, split)
    return frequencies[frequencies["images"] > 0].reset_index(drop=True)


def frequency_chart(frequencies: pd.DataFrame) -> Figure:
    """Images per part, grouped by object, unseen objects marked."""
    return frequency_bars(frequencies)


def split_table(reader: PascalPart116) -> pd.DataFrame:
    """Records and images of every split, and how many records have no part to train or score."""
    rows = []
    for split in SPLITS:
        if split == "train_few_shot" and not (reader.root / FEW_SHOT_LIST).is_file():
            print(f"{split} is left out: there is no {FEW_SHOT_LIST}")
            continue
        records, vocabulary, counts = reader.records(split), reader.training_vocabulary(split), reader.scan(split)
        useful = np.flatnonzero(reader.vocabulary.part_table(vocabulary) != vocabulary.ignore_label)
        kept = sum(counts.has_part(record.image_id, useful, record.object_id) for record in records)
        rows.append(
            {
                "split": split,
                "one record is": "image" if records and records[0].object_id is None else "image × object",
                "records": len(records),
                "without parts, skipped": len(records) - kept,
                "images": len({record.image_id for record in records}),
                "parts": len(vocabulary.parts),
            }
        )
    return pd.DataFrame(rows)

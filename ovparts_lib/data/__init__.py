"""Readers of each dataset as released, samples, transforms, loaders and the integrity check."""

from ovparts_lib.data.ade20k_part_234_checks import instance_table, verify_ade20k_part_234
from ovparts_lib.data.ade20k_source import BuildReport, build_ade20k_part_234
from ovparts_lib.data.dataset import (
    Batch,
    EvaluationDataset,
    EvaluationSample,
    ObjectRegion,
    TrainingDataset,
    collate_training,
)
from ovparts_lib.data.few_shot import ShotList, draw_shots, with_drawn_shots, write_shots
from ovparts_lib.data.labels import read_image, read_labels
from ovparts_lib.data.loader import ResumableSampler, TrainingLoader, training_loader
from ovparts_lib.data.pascal_part_116_checks import verify_pascal_part_116
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.readers.partimagenet import PartImageNetOOD, PartImageNetSeg
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.records import DatasetError, Reader, Record
from ovparts_lib.data.registry import READERS, open_reader, verify_dataset
from ovparts_lib.data.scan import LabelCounts, class_frequencies
from ovparts_lib.data.transforms import resize_image, resize_labels, shortest_edge_size, training_transform
from ovparts_lib.data.verification_report import Problem, VerificationReport

__all__ = [
    "READERS",
    "ADE20KPart234",
    "Batch",
    "BuildReport",
    "DatasetError",
    "EvaluationDataset",
    "EvaluationSample",
    "LabelCounts",
    "ObjectRegion",
    "PartImageNetOOD",
    "PartImageNetSeg",
    "PascalPart116",
    "Problem",
    "Reader",
    "Record",
    "ResumableSampler",
    "ShotList",
    "TrainingDataset",
    "TrainingLoader",
    "VerificationReport",
    "build_ade20k_part_234",
    "class_frequencies",
    "collate_training",
    "draw_shots",
    "instance_table",
    "open_reader",
    "read_image",
    "read_labels",
    "resize_image",
    "resize_labels",
    "shortest_edge_size",
    "training_loader",
    "training_transform",
    "verify_ade20k_part_234",
    "verify_dataset",
    "verify_pascal_part_116",
    "with_drawn_shots",
    "write_shots",
]

"""Readers of each dataset as released, samples, transforms, loaders and the integrity check.

Names are imported when they are first used, so that :mod:`ovparts_lib.data.registry` can be read without torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ade20k_source": ("build_ade20k_part_234",),
    "audit": ("class_frequencies", "classes_seen_in_training"),
    "dataset": ("EvaluationDataset", "EvaluationSample", "ObjectRegion", "TrainingDataset", "collate_training"),
    "labels": ("read_image", "read_labels"),
    "loader": ("ResumableSampler", "training_loader"),
    "prepare": ("prepare_dataset",),
    "readers.ade20k_part_234": ("ADE20KPart234",),
    "readers.base": ("Reader",),
    "readers.pascal_part_116": ("PascalPart116",),
    "records": ("DatasetError", "Record"),
    "registry": ("DATASETS", "open_reader", "verify_dataset"),
    "transforms": ("training_transform",),
    "verification_report": ("VerificationReport",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)

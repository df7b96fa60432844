"""A result under the names that the released evaluators print, to be held against their logs."""

from __future__ import annotations

from ovparts_lib.evaluation.protocols import ProtocolResult

_MEANS = {"mIoU": "mIoU", "fwIoU": "fwIoU"}
_GROUPS = {"mIoU-base": "seen", "mIoU-unbase": "unseen", "h-IoU": "harmonic"}
_ACCURACY = {"mACC": "recall", "pACC": "pixel_accuracy"}
_RECALL = {
    "mRecall": "recall",
    "mRecall-base": "recall_seen",
    "mRecall-unbase": "recall_unseen",
    "h-Recall": "recall_harmonic",
}
_PIXELS = {"pAcc-base": "pixel_accuracy_seen", "pAcc-unbase": "pixel_accuracy_unseen"}
_BOUNDARY = {
    "Boundary-mIoU-base": "boundary_IoU_seen",
    "Boundary-mIoU-unbase": "boundary_IoU_unseen",
    "h-bIoU": "boundary_IoU_harmonic",
}
_PART_CATSEG = _MEANS | _GROUPS | _ACCURACY | _RECALL
_PART_CATSEG |= {"pACC-base": "pixel_accuracy_seen", "pACC-unbase": "pixel_accuracy_unseen"}
_PART_CLIPSEG = _MEANS | _GROUPS | _ACCURACY | _RECALL | _PIXELS | _BOUNDARY
_SUMMARY = {
    "ov_parts": _MEANS | _GROUPS,
    "partclipseg_oracle": _PART_CLIPSEG,
    "partclipseg_pred_all": _PART_CLIPSEG,
    "partcatseg_oracle": _PART_CATSEG,
    "partcatseg_pred_all": _PART_CATSEG,
    "objcatseg": _PART_CATSEG,
    "detectron2": _MEANS | _ACCURACY,
    "ovseg": _MEANS | _ACCURACY | {"mIoU-base": "seen", "mIoU-unbase": "unseen", "hIoU-base": "harmonic"} | _PIXELS,
}
_CLASSES = {
    "ov_parts": {"IoU": "IoU"},
    "partclipseg_oracle": {"IoU": "IoU", "ACC": "recall", "Recall": "recall", "BoundaryIoU": "boundary_IoU"},
    "partclipseg_pred_all": {"IoU": "IoU", "ACC": "recall", "Recall": "recall", "BoundaryIoU": "boundary_IoU"},
    "partcatseg_oracle": {"IoU": "IoU", "ACC": "recall", "Recall": "recall"},
    "partcatseg_pred_all": {"IoU": "IoU", "ACC": "recall", "Recall": "recall"},
    "objcatseg": {"IoU": "IoU", "ACC": "recall", "Recall": "recall"},
    "detectron2": {"IoU": "IoU", "ACC": "recall", "BoundaryIoU": "boundary_IoU"},
    "ovseg": {"IoU": "IoU", "ACC": "recall"},
}


def released_keys(result: ProtocolResult, names: tuple[str, ...]) -> dict[str, float]:
    """Figures of a released protocol under the released names.

    Where the released code leaves a key out (an empty group) or crashes, this has the key with NaN.

    Args:
        result: under a protocol that was released.
        names: the vocabulary's class names, in label order.

    Raises:
        ValueError: the protocol is ours, it was never released.
    """
    if result.protocol not in _SUMMARY:
        raise ValueError(f"the protocol {result.protocol!r} has no released names; {', '.join(_SUMMARY)} have")
    figures = {theirs: result.summary[ours] for theirs, ours in _SUMMARY[result.protocol].items()}
    for theirs, ours in _CLASSES[result.protocol].items():
        figures |= {f"{theirs}-{name}": float(value) for name, value in zip(names, result.classes[ours], strict=True)}
    if result.protocol == "detectron2":
        smaller = result.classes[["IoU", "boundary_IoU"]].min(axis=1, skipna=False)
        figures |= {f"min(IoU, B-Iou)-{name}": float(value) for name, value in zip(names, smaller, strict=True)}
    return figures

"""The CLIP that classifies crops: adapted to them on the training split, and fused into the segmentation model."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from torch import nn

from ovparts_lib import inspection
from ovparts_lib.checkpoints.reading import RUN_WEIGHTS
from ovparts_lib.data.registry import open_reader
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.options import SystemOptions
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import OpenedData, open_training
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import chosen_images

_TESTED = 50  # test images whose annotated masks are named before and after


def adapt_clip(model: nn.Module, data: OpenedData, params: SystemOptions, output: RunOutput) -> Iterator[Panel]:
    """Adapt the CLIP that classifies crops as the parameters say, or fuse what the run has adapted before.

    Leaves that CLIP alone and the whole system in the run folder, so that the folder can be scored, inspected, or begun
    from.

    Returns:
        The loss, and, for a system that can tell, how often CLIP names annotated masks of test images right.
    """
    options = params.adaptation_options()
    if not options:
        yield Panel("clip_adaptation", title="CLIP for crops", caption="not adapted, as the parameters say")
        return
    system = SYSTEMS[params.system]
    tuning, classes = system.module("fine_tuning"), data.evaluation.vocabulary.classes
    path = output.path / tuning.FILE
    samples = [data.evaluation[index] for index in chosen_images(data.evaluation, _TESTED)]
    tested, history = {}, pd.DataFrame()
    if hasattr(tuning, "crop_accuracy"):
        tested["before"] = tuning.crop_accuracy(model, samples, classes)
    if path.is_file():
        print(f"adapted before, fused from {path.name}: {tuning.fuse_clip(model, path)}")
    else:
        training = data.training or open_training(params, open_reader(params.dataset, resolve_path(params.data_root)))
        history = tuning.adapt_clip(model, training, output.path, seed=params.seed, **options)
        for way, rows in history.groupby("way", sort=False):
            yield inspection.training_curve(rows, f"clip_adaptation_{way}", f"Adaptation of CLIP: {way}")
    if tested:
        tested["after"] = tuning.crop_accuracy(model, samples, classes)
        table = pd.DataFrame(tested).T.rename_axis("adaptation").reset_index()
        yield Panel("crop_accuracy", table=table, title="Annotated masks of test images that CLIP names right, percent")
    system.save(model, output.path / RUN_WEIGHTS, setting=params.setting, run=params.run)
    print(f"{RUN_WEIGHTS} holds the segmentation model with its CLIP for crops")

"""Oracle ablations of a two-stage system: how much of the error is masks, how much is names."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from ovparts_lib.evaluation import evaluate, score_all
from ovparts_lib.inspection import Panel
from ovparts_lib.systems.registry import system_of

ABLATIONS = {
    "as predicted": (None, "the system as it is"),
    "oracle masks": ("oracle_mask", "annotated regions, named by the system: what is lost is misnamed"),
    "oracle classes": ("oracle_class", "the system's regions, named by the annotation: what is lost are bad masks"),
}


def oracle_ablations(model: nn.Module, dataset: Any, images: int, protocol: str, **options: Any) -> Panel:
    """Score the first test images in oracle-obj as predicted, with annotated masks, and with annotated names.

    Args:
        model: a two-stage system.
        dataset: the test images.
        images: how many; 0 for none.
        protocol: by name.
        **options: of :func:`ovparts_lib.evaluation.evaluate`.

    Returns:
        A table with a row each, in percent, with what it tells.
    """
    title = f"Oracle ablations, first {images} test images, oracle-obj"
    if not images:
        return Panel("ablations", title=title, caption="switched off (ablation_images)")
    ablated, rows = system_of(model).module("ablations").oracle_ablations, []
    vocabulary = dataset.vocabulary
    options |= {"limit": images, "modes": ("oracle_obj",)}
    for name, (kind, tells) in ABLATIONS.items():
        given = {} if kind is None else {"predict": lambda sample, k=kind: ablated(model, sample, vocabulary)[k]}
        result = score_all(evaluate(model, dataset, **options, **given), [protocol])[0]
        figures = {key: result.summary[key] for key in ("seen", "unseen", "harmonic", "mIoU")}
        rows.append({"given": name, **figures, "protocol": result.protocol, "tells": tells})
    return Panel("ablations", table=pd.DataFrame(rows), title=title)

"""Which part of an object is taken for which."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.inspection.figures import named_heatmap, new_figure, styled
from ovparts_lib.inspection.panel import Panel

_COLUMNS = 3  # panels side by side


@styled
def part_confusion(evaluation: Evaluation, mode: str) -> Panel:
    """What the labelled pixels of each part were taken for, in percent of the part's pixels.

    A panel per object that has two or more labelled parts.

    Args:
        evaluation: the counts.
        mode: one of its modes.
    """
    vocabulary, counts = evaluation.vocabulary, evaluation.matrices[mode]
    labelled = counts[:, :-1].sum(axis=0) > 0
    objects = [n for i, n in enumerate(vocabulary.objects) if sum(labelled[list(vocabulary.parts_of(i))]) >= 2]
    title = f"Confusion between parts, {mode.replace('_', '-')}"
    if not objects:
        return Panel("part_confusion", title=title, caption="no object has two labelled parts")
    tables = [part_confusion_table(evaluation, name, mode) for name in objects]
    columns = min(_COLUMNS, len(tables))
    size = max(len(table.columns) for table in tables)
    side = max(2.6, min(11.5 / columns, 0.36 * size + 1.6)) if columns > 1 else max(4.2, 0.5 * size + 1.8)
    figure = new_figure(side * columns, -(-len(tables) // columns) * (0.8 * side + 0.35) + 0.4)
    axes = figure.subplots(-(-len(tables) // columns), columns, squeeze=False).ravel()
    for ax in axes[len(tables) :]:
        ax.set_axis_off()
    for ax, table, name in zip(axes, tables, objects, strict=False):
        unseen = " *" if name in vocabulary.unseen_objects else ""
        _confusion_panel(ax, table, f"{name}{unseen}", large=columns == 1)
    figure.suptitle(f"Taken for, % of the part's pixels; {mode}; * unseen object", fontsize=10.5)
    data = pd.concat(dict(zip(objects, tables, strict=True)), names=["object", "part"]).reset_index()
    caption = "Each row says what a part's labelled pixels were taken for, in percent; * marks unseen objects."
    return Panel("part_confusion", figure, data, title, caption)


def part_confusion_table(evaluation: Evaluation, object_name: str, mode: str) -> pd.DataFrame:
    """Data behind :func:`part_confusion`: rows ground truth, columns prediction, in percent of the row.

    Columns are the object's parts and, where they were predicted, ``other objects`` and ``background``. Rows of parts
    without labelled pixels are left out; the others sum to 100.
    """
    vocabulary = evaluation.vocabulary
    own = list(vocabulary.parts_of(vocabulary.object_id(object_name)))
    counts = evaluation.matrices[mode][:, own].T.astype(np.float64)
    names = [vocabulary.pairs[part][1] for part in own]
    table = pd.DataFrame(counts[:, own], index=pd.Index(names, name="ground truth"), columns=names)
    background = counts[:, -1]
    others = counts.sum(axis=1) - counts[:, own].sum(axis=1) - background
    if others.any():
        table["other objects"] = others
    if background.any():
        table["background"] = background
    total = table.sum(axis=1)
    return 100 * table[total > 0].div(total[total > 0], axis=0)


def _confusion_panel(ax: Axes, table: pd.DataFrame, title: str, *, large: bool) -> None:
    # Zeros say nothing and would hide where the others are.
    numbers = table.map(lambda value: f"{value:.0f}" if value >= 0.5 else "")
    size = 8 if large else 6.5 if len(table.columns) <= 12 else 5.5
    named_heatmap(ax, table, numbers, cmap="Blues", size=size)
    ax.set_title(title, fontweight="bold")
    ax.tick_params(labelsize=8 if large else 7)

"""Charts of classes: bars grouped by object, a heat map of objects by generic parts, and what is taken for what."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.inspection.figures import Panel, named_heatmap, new_figure, styled, wrapped
from ovparts_lib.inspection.palette import HATCH, SEEN, UNSEEN
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

_ROWS = 46  # bars above one another before a chart goes on beside itself
_COLUMNS = 3  # objects' confusions side by side


@styled
def iou_bars(table: pd.DataFrame) -> Panel:
    """IoU of every class as horizontal bars, grouped by object; unseen objects are orange and hatched.

    Args:
        table: as :func:`ovparts_lib.evaluation.tables.class_table` gives it; classes without a value are
            counted, not drawn.
    """
    shown = table[table["IoU"].notna()]
    left_out = len(table) - len(shown)
    note = f"; not shown: {left_out} without labels" if left_out else ""
    mode, protocol = table["mode"].iloc[0], table["protocol"].iloc[0]
    figure = _grouped_bars(shown, "IoU", f"IoU per class, {mode}, {protocol}{note}", "IoU (%)", limit=100)
    unseen = "; hatched classes are unseen" if not table["seen"].all() else ""
    groups = "Classes" if (table["object"] == table["part"]).all() else "Parts are grouped by object"
    caption = f"{groups}{unseen}. Protocol {protocol}."
    return Panel(f"iou_bars_{mode}", figure, table, f"IoU per class, {mode.replace('_', '-')}", caption)


@styled
def frequency_bars(frequencies: pd.DataFrame, vocabulary: Vocabulary, split: str) -> Panel:
    """How many images show each class, parts grouped by object, the unseen ones hatched.

    Args:
        frequencies: of :func:`ovparts_lib.data.audit.class_frequencies`; those that never occur are counted, not drawn.
        vocabulary: of its classes.
        split: that was counted.
    """
    shown = frequencies[frequencies["images"] > 0].reset_index(drop=True)
    left_out = len(frequencies) - len(shown)
    note = f"; not shown: {left_out} that never occur" if left_out else ""
    kind = "part" if isinstance(vocabulary, PartVocabulary) else "class"
    pairs = vocabulary.pairs if isinstance(vocabulary, PartVocabulary) else [(n, n) for n in vocabulary.classes]
    owners = dict(zip(vocabulary.classes, pairs, strict=True))
    drawn = shown.assign(object=[owners[n][0] for n in shown[kind]], generic=[owners[n][1] for n in shown[kind]])
    figure = _grouped_bars(drawn, "images", f"Images per {kind}{note}", "images", limit=None)
    unseen = "" if shown["seen"].all() else "; unseen ones are hatched"
    caption = f"Images in which each {kind} is labelled{unseen}."
    return Panel(f"class_frequencies_{split}", figure, shown, f"Class frequencies of {split}", caption)


@styled
def iou_heatmap(table: pd.DataFrame) -> Panel:
    """Object by generic part: empty where the object has no such part, rows of unseen objects marked.

    Args:
        table: as :func:`ovparts_lib.evaluation.tables.class_table` gives it.
    """
    grid, seen = iou_grid(table), table.groupby("object")["seen"].first()
    # The shorter list goes across, so that numbers stay legible at notebook width.
    across = grid if grid.shape[1] <= 24 else grid.T
    cell = min(0.52, 9.6 / across.shape[1])
    figure = new_figure(max(4.5, cell * across.shape[1] + 2.4), max(2.6, 0.25 * across.shape[0] + 1.8))
    ax = figure.add_subplot()
    numbers = across.map(lambda value: "" if pd.isna(value) else f"{value:.0f}")
    mesh = named_heatmap(ax, across, numbers, cmap="viridis", size=7.5 if cell >= 0.4 else 6)
    figure.colorbar(mesh, ax=ax, label="IoU (%)", shrink=min(0.6, 14 / len(across)), aspect=25, pad=0.01)
    objects = ax.yaxis if across is grid else ax.xaxis
    objects.set_ticklabels([name + " *" * (not seen[name]) for name in grid.index])
    for label, name in zip(objects.get_ticklabels(), grid.index, strict=True):
        if not seen[name]:
            label.set(color="#B35900", fontweight="bold")
    mode, protocol = table["mode"].iloc[0], table["protocol"].iloc[0]
    ax.set_title(f"IoU by object and part, {mode}, {protocol}    * unseen object", loc="left")
    caption = f"Objects, unseen ones marked *, against generic parts. Protocol {protocol}."
    return Panel(f"iou_heatmap_{mode}", figure, table, f"IoU by object and part, {mode.replace('_', '-')}", caption)


def iou_grid(table: pd.DataFrame) -> pd.DataFrame:
    """Data behind :func:`iou_heatmap`: objects (seen ones first) by generic parts (most shared first)."""
    shown = table[table["IoU"].notna()]
    grid = shown.pivot(index="object", columns="generic", values="IoU")
    seen = shown.groupby("object")["seen"].first()
    grid = grid.loc[sorted(grid.index, key=lambda name: (not seen[name], name))]
    return grid[sorted(grid.columns, key=lambda name: (-grid[name].notna().sum(), name))]


def _grouped_bars(table: pd.DataFrame, column: str, title: str, unit: str, limit: float | None) -> Figure:
    if len(table) and (table["object"] == table["generic"]).all():
        table = _in_columns(table)
    blocks = _blocks(table)
    fullest = max((sum(len(rows) + 1 for _, rows in block) for block in blocks), default=1)
    width = min(11.5, 4.4 * len(blocks) + 0.6)
    figure = new_figure(width, max(1.8, 0.165 * fullest + 0.9))
    top = limit or (max(1, table[column].max()) if len(table) else 1)
    axes = figure.subplots(1, len(blocks), squeeze=False)[0] if blocks else []
    for ax, block in zip(axes, blocks, strict=True):
        _bar_block(ax, block, column, top, fullest)
        ax.set_xlabel(unit)
    figure.suptitle(title, fontsize=10.5)
    if not table["seen"].all():
        unseen = Patch(facecolor=UNSEEN, hatch=HATCH, edgecolor="white", label="unseen")
        handles = [Patch(facecolor=SEEN, label="seen"), unseen]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _in_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Classes that are no parts, as groups of a column's length; of a long list the first four columns."""
    table = table.sort_values("seen", ascending=False, kind="stable").head(4 * (_ROWS - 1))
    number = table.groupby("seen").cumcount() // (_ROWS - 1) + 1
    names = {True: "seen", False: "unseen"} if not table["seen"].all() else {True: "classes"}
    counted = [f" {n}" if number.max() > 1 else "" for n in number]
    return table.assign(object=[names[s] + n for s, n in zip(table["seen"], counted, strict=True)])


def _blocks(table: pd.DataFrame) -> list[list[tuple[str, pd.DataFrame]]]:
    """Objects in the order they stand beside each other: seen first, then unseen, in columns of similar length."""
    groups = sorted(table.groupby("object", sort=True), key=lambda group: not group[1]["seen"].iloc[0])
    rows = np.array([len(group) + 1 for _, group in groups])
    share = rows.sum() / max(1, math.ceil(rows.sum() / _ROWS))
    # A group goes where its middle falls.
    columns = ((rows.cumsum() - rows / 2) // share).tolist()
    placed = [(column, str(name), group) for column, (name, group) in zip(columns, groups, strict=True)]
    return [[(name, group) for at, name, group in placed if at == column] for column in dict.fromkeys(columns)]


def _bar_block(ax: Axes, block: list[tuple[str, pd.DataFrame]], column: str, top: float, fullest: int) -> None:
    place, ticks, names = 0, [], []
    for name, rows in block:
        seen = bool(rows["seen"].iloc[0])
        colour, hatch = (SEEN, "") if seen else (UNSEEN, HATCH)
        heading = {"ha": "left", "va": "center", "fontweight": "bold", "size": 8.5}
        ax.text(0, place, wrapped(name, 34, lines=1), color=SEEN if seen else "#B35900", **heading)
        places = np.arange(place + 1, place + 1 + len(rows))
        bars = ax.barh(places, rows[column], 0.74, color=colour, hatch=hatch, edgecolor="white")
        ax.bar_label(bars, [f"{value:.0f}" for value in rows[column]], padding=2, size=7)
        ticks += list(places)
        names += list(map(str, rows["generic"]))
        place += 1 + len(rows)
    ax.set(xlim=(0, 1.1 * top), ylim=(fullest - 0.4, -0.7))
    ax.set_yticks(ticks, names, size=7.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


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

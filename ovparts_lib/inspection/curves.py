"""Training over its steps, and runs beside each other."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, NullFormatter

from ovparts_lib.inspection.figures import Panel, new_figure, styled
from ovparts_lib.inspection.palette import HATCH, SEEN, UNSEEN


@styled
def training_curve(history: pd.DataFrame, name: str = "training", title: str = "Training") -> Panel:
    """Loss, learning rate and, where there are any, evaluations over the steps of a training run.

    Args:
        history: as :func:`ovparts_lib.training.history_frame` gives it: ``step``, ``loss``, ``learning_rate``,
            ``evaluation/<figure>``; a column that is missing is not drawn.
        name: of the panel.
        title: of the panel.
    """
    if history.empty:
        return Panel(name, title=title, caption="nothing was trained")
    scores = [name for name in history if name.startswith("evaluation/") and history[name].notna().any()]
    rows = ["loss"] + ["evaluation"] * bool(scores) + ["learning_rate"] * ("learning_rate" in history)
    heights = {"loss": 2.2, "evaluation": 2.0, "learning_rate": 1.1}
    figure = new_figure(8.5, sum(heights[row] for row in rows) + 0.6)
    ratios = {"height_ratios": [heights[row] for row in rows]}
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw=ratios).ravel()
    for ax, row in zip(axes, rows, strict=True):
        if row == "evaluation":
            _evaluations(ax, history, scores)
        elif row in history:
            _curve(ax, history, row)
        ax.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axes[-1].set_xlabel("step")
    figure.align_ylabels(axes)
    caption = f"{' and '.join(row.replace('_', ' ') for row in rows if row != 'evaluation').capitalize()} per step"
    scored = "; marks where the model was scored during training" if scores else ""
    return Panel(name, figure, history, title, f"{caption}{scored}.")


@styled
def run_bars(table: pd.DataFrame, name: str, title: str, caption: str) -> Panel:
    """Group means of several runs, a panel per mode: seen, unseen and harmonic, or mIoU where there are no groups.

    Args:
        table: a row per run and mode: ``label``, ``mode``, ``seen``, ``unseen``, ``harmonic`` and, where none of these
            is defined, ``mIoU``, in percent.
        name: of the panel.
        title: of the panel.
        caption: of the panel.
    """
    if table.empty:
        return Panel(name, title=title, caption="nothing has been scored yet")
    columns = ["seen", "unseen", "harmonic"]
    columns = columns if table[columns].notna().any(axis=None) else ["mIoU"]
    modes = list(dict.fromkeys(table["mode"]))
    labels = list(dict.fromkeys(table["label"]))
    figure = new_figure(min(11.0, 5.2 * len(modes) + 0.8), max(2.0, 0.27 * len(columns) * len(labels) + 1.3))
    axes = figure.subplots(1, len(modes), squeeze=False, sharey=True)[0]
    largest = np.nanmax(table[list(columns)].to_numpy(float), initial=10)
    limit = min(112, 1.15 * largest)
    shades = [(SEEN, ""), (UNSEEN, HATCH), ("#7F7F7F", "")]
    for ax, mode in zip(axes, modes, strict=True):
        rows = table[table["mode"] == mode].drop_duplicates("label").set_index("label").reindex(labels)
        for k, (column, (colour, hatch)) in enumerate(zip(columns, shades, strict=False)):
            places = np.arange(len(labels)) + (k - (len(columns) - 1) / 2) * 0.8 / len(columns)
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": column}
            bars = ax.barh(places, rows[column].fillna(0), 0.76 / len(columns), **look)
            ax.bar_label(bars, [f"{v:.1f}" if np.isfinite(v) else "undefined" for v in rows[column]], padding=2, size=8)
        ax.set(xlim=(0, limit), title=mode, xlabel="mIoU (%)", yticks=range(len(labels)), yticklabels=labels)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(columns))
    return Panel(name, figure, table, title, caption)


def _curve(ax: Axes, history: pd.DataFrame, column: str) -> None:
    rows = history[history[column].notna()]
    if column == "loss" and len(rows) >= 20:
        ax.plot(rows["step"], rows[column], color=SEEN, alpha=0.3, linewidth=0.8, label="logged")
        smooth = rows[column].rolling(max(3, len(rows) // 25), min_periods=1, center=True).mean()
        ax.plot(rows["step"], smooth, color=SEEN, linewidth=1.6, label="running mean")
        ax.legend(loc="upper right")
    else:
        ax.plot(rows["step"], rows[column], color=SEEN, linewidth=1.4, marker="." if len(rows) < 20 else None)
    if column == "loss" and len(rows) and rows[column].min() > 0 and rows[column].max() / rows[column].min() > 30:
        ax.set_yscale("log")
        ax.yaxis.set(major_formatter=LogFormatter(), minor_formatter=NullFormatter())
    elif column == "learning_rate":
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    ax.set_ylabel(column.replace("_", " "))


def _evaluations(ax: Axes, history: pd.DataFrame, scores: Sequence[str]) -> None:
    colours = sns.color_palette("colorblind", len(scores))
    for colour, marker, name in zip(colours, "osD^vPX*<>h8" * len(scores), scores, strict=False):
        rows = history[history[name].notna()]
        label = name.removeprefix("evaluation/")
        ax.plot(rows["step"], rows[name], marker=marker, markersize=4.5, linewidth=1.1, color=colour, label=label)
    ax.set_ylabel("evaluation (%)")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5)

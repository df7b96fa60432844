"""How mask proposals get their classes: the crop, what the proposal network and CLIP say of it, and the ensemble."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ovparts_lib.inspection.attention import render_heat
from ovparts_lib.inspection.figures import new_figure, panel_picture, styled, wrapped
from ovparts_lib.systems.proposals import ProposalMaps, mask_quality

SPEAKERS = {"proposals": "proposal network", "clip": "CLIP on the crop", "combined": "combined"}
_COLOURS = ("#4C72B0", "#DD8452", "#55A868")
_TOP = 3  # classes that each names


def opinion_table(maps: ProposalMaps, masks: int = 6) -> pd.DataFrame:
    """What was said of the masks that count most: a row for each class that is among someone's first three.

    A mask counts as its largest combined class times how sure it is of its pixels times the root of its area.

    Returns:
        ``mask``, ``class``, and ``proposals``, ``clip``, ``combined`` (0..1; NaN where that was not asked).
    """
    area = (maps.masks > 0.5).float().mean((1, 2)).sqrt()
    weight = maps.combined.float().amax(1).cpu() * (mask_quality(maps.masks.float()) * area).cpu()
    rows = []
    for mask in weight.argsort(descending=True)[:masks].tolist():
        said = _said_of(maps, mask)
        chosen = dict.fromkeys(int(i) for values in said.values() for i in np.argsort(-values)[:_TOP])
        rows += [
            {"mask": mask, "class": maps.classes[i]}
            | {who: float(said[who][i]) if who in said else np.nan for who in SPEAKERS}
            for i in sorted(chosen, key=lambda i: -said["combined"][i])
        ]
    return pd.DataFrame(rows, columns=["mask", "class", *SPEAKERS])


@styled
def opinions(maps: ProposalMaps, table: pd.DataFrame) -> Figure:
    """A row for each mask of :func:`opinion_table`: the mask, its crop as CLIP sees it, and bars of what was said."""
    numbers = list(dict.fromkeys(table["mask"]))
    figure = new_figure(11.0, 2.3 * len(numbers) + 0.4, pictures=True)
    axes = figure.subplots(len(numbers), 3, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1.6]})
    picture = panel_picture(maps.image)
    for (whole, crop, bars), mask in zip(axes, numbers, strict=True):
        whole.imshow(render_heat(picture, maps.masks[mask].float().cpu().numpy(), top=1.0))
        whole.set_title(f"mask {mask}")
        shown = crop_of(maps, mask)
        if shown is not None:
            crop.imshow(shown)
        crop.set_title("its crop" if shown is not None else "no crop")
        for ax in (whole, crop):
            ax.set_axis_off()
        rows = table[table["mask"] == mask]
        places = np.arange(len(rows))
        for number, (who, colour) in enumerate(zip(SPEAKERS, _COLOURS, strict=True)):
            bars.barh(places + 0.27 * (number - 1), rows[who].fillna(0), 0.25, color=colour, label=SPEAKERS[who])
        bars.set_yticks(places, [wrapped(name, 22, lines=1) for name in rows["class"]], size=7.5)
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
    handles, labels = axes[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def crop_of(maps: ProposalMaps, mask: int) -> np.ndarray | None:
    """The box of a mask with blank pixels in grey, uint8 (h, w, 3); None if the mask has no crop."""
    if maps.valid is None or not bool(maps.valid[mask]):
        return None
    x0, y0, x1, y1 = maps.boxes[int(maps.valid[:mask].sum())].tolist()
    picture = maps.image[:, y0:y1, x0:x1].permute(1, 2, 0).cpu().numpy()
    inside = (maps.masks[mask, y0:y1, x0:x1] > 0.5).cpu().numpy()
    return np.where(inside[..., None], picture, np.uint8(128))


@styled
def search_heatmap(table: pd.DataFrame) -> Figure:
    """MIoU by mask threshold (rows) and weight of CLIP (columns); the best is outlined.

    Args:
        table: columns ``threshold``, ``weight``, ``mIoU``.
    """
    grid = table.pivot(index="threshold", columns="weight", values="mIoU")
    figure = new_figure(1.1 * len(grid.columns) + 2.4, 0.6 * len(grid) + 1.4)
    ax = figure.add_subplot()
    sns.heatmap(grid, ax=ax, cmap="viridis", annot=True, fmt=".1f", cbar_kws={"label": "mIoU (%)"}, linewidths=0.5)
    best = table.loc[table["mIoU"].idxmax()]
    place = (grid.columns.get_loc(best["weight"]), grid.index.get_loc(best["threshold"]))
    ax.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="white", linewidth=2.5))
    ax.set(xlabel="weight of CLIP", ylabel="mask threshold")
    return figure


def _said_of(maps: ProposalMaps, mask: int) -> dict[str, np.ndarray]:
    """Class values of one mask, by who gives them."""
    said = {"combined": maps.combined[mask].float().cpu().numpy()}
    if maps.proposals is not None:
        said["proposals"] = maps.proposals[mask].float().cpu().numpy()
    if maps.clip is not None and bool(maps.valid[mask]):
        said["clip"] = maps.clip[int(maps.valid[:mask].sum())].float().cpu().numpy()
    return said

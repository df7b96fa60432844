"""Mask proposals: the masks, their crops, and what each stage, CLIP and the ensemble call them."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ovparts_lib.inspection.arrays import panel_picture
from ovparts_lib.inspection.figures import Panel, new_figure, picture_panels, styled
from ovparts_lib.inspection.heat_maps import render_heat
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps, mask_overlap, mask_quality

_SPEAKERS = {
    "proposal network": "#4C72B0",
    "before SIM": "#4C72B0",
    "after SIM": "#8172B3",
    "CLIP on the crop": "#DD8452",
    "combined": "#55A868",
}
_TOP = 3  # classes that each names
_MASKS = 6  # whose crops and bars are shown


def proposal_table(maps: ProposalMaps, truth: Tensor | None = None, vocabulary_size: int = 0) -> pd.DataFrame:
    """A row for each mask, the one that counts most first.

    Args:
        maps: of an image or an object.
        truth: part map, int64 (H, W), of what the masks are of; None where there is no annotation.
        vocabulary_size: labels of ``truth`` below it are classes.

    Returns:
        ``mask`` (number), ``quality`` (mean probability of its pixels above one half), ``share`` (of the image, in
        percent), ``stage1`` and ``stage1_score``; with CLIP's opinion ``clip`` and ``clip_score``; ``combined`` and
        ``combined_score``; with ``truth`` ``nearest_part`` and its ``overlap`` (IoU).
    """
    table = pd.DataFrame({"mask": range(len(maps.masks)), "quality": mask_quality(maps.masks).tolist()})
    table["share"] = (100 * (maps.masks > 0.5).float().mean((1, 2))).tolist()
    for column, scores in (("stage1", maps.proposals), ("combined", maps.combined)):
        if scores is not None:
            _add(table, column, scores, maps, torch.ones(len(scores), dtype=torch.bool))
    if maps.clip is not None:
        _add(table, "clip", maps.clip, maps, maps.valid.cpu())
    if truth is not None:
        labels = [int(label) for label in truth.unique() if label < vocabulary_size]
        if labels:
            given = torch.stack([truth == label for label in labels]).to(maps.masks.device)
            best, which = mask_overlap(maps.masks, given).max(1)
            table["nearest_part"] = [maps.classes[labels[index]] for index in which.tolist()]
            table["overlap"] = best.tolist()
    order = (table["combined_score"] * table["quality"]).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _add(table: pd.DataFrame, column: str, scores: Tensor, maps: ProposalMaps, rows: Tensor) -> None:
    best, which = scores.float().max(1)
    table.loc[rows.numpy(), column] = [maps.classes[index] for index in which.tolist()]
    table.loc[rows.numpy(), f"{column}_score"] = best.tolist()


@styled
def proposal_grid(maps: ProposalMaps, table: pd.DataFrame, name: str, title: str, caption: str) -> Panel:
    """The first masks of a table of :func:`proposal_table` over the picture, with their classes and quality."""
    shown, picture = table.head(12), panel_picture(maps.image)
    figure, axes = picture_panels(len(shown), 4, picture, gap=0.75)
    for ax, row in zip(axes.ravel(), shown.to_dict("records"), strict=False):
        ax.imshow(render_heat(picture, maps.masks[row["mask"]].float().cpu().numpy(), top=1.0))
        words = [f"{who}: {row[key]} {row[f'{key}_score']:.2f}" for who, key in _namers(row)]
        ax.set_title("\n".join([*words, f"mask quality {row['quality']:.2f}"]))
    return Panel(name, figure, table, title, caption)


def _namers(row: dict[str, object]) -> list[tuple[str, str]]:
    named = [("stage 1", "stage1"), ("CLIP", "clip")]
    found = [(who, key) for who, key in named if isinstance(row.get(key), str)]
    return found or [("all", "combined")]


@styled
def opinions(maps: ProposalMaps, name: str, calibration: CalibrationMaps | None = None) -> Panel:
    """A row for each of the masks that count most: the mask, its crop as CLIP sees it, and bars of what was said.

    A mask counts as its largest combined class times how sure it is of its pixels times the root of its area. Blank
    parts of a crop are grey; with ``calibration``, the more layers overwrite a blank patch with the image's class
    token, the more orange it is.

    Args:
        maps: ``maps["proposals"]`` from ``inspect``.
        name: of the picture.
        calibration: ``maps["calibration"]`` of a system that has such.

    Returns:
        With a table of a row per mask and class that is among someone's first three: ``mask``, ``class``, and what the
        proposal network (before and after SIM, with ``calibration``), CLIP and both together say, 0..1; NaN where that
        was not asked.
    """
    area = (maps.masks > 0.5).float().mean((1, 2)).sqrt()
    weight = maps.combined.float().amax(1).cpu() * (mask_quality(maps.masks.float()) * area).cpu()
    numbers, rows = weight.argsort(descending=True, stable=True)[:_MASKS].tolist(), []
    for mask in numbers:
        said = _said_of(maps, calibration, mask)
        chosen = dict.fromkeys(int(i) for values in said.values() for i in np.argsort(-values)[:_TOP])
        rows += [
            {"mask": mask, "class": maps.classes[i]} | {who: float(values[i]) for who, values in said.items()}
            for i in sorted(chosen, key=lambda i: -said["combined"][i])
        ]
    table, picture = pd.DataFrame(rows), panel_picture(maps.image)
    speakers = [who for who in _SPEAKERS if who in table]
    table = table[["mask", "class", *speakers]]

    figure = new_figure(11.0, 2.3 * len(numbers) + 0.4, pictures=True)
    axes = figure.subplots(len(numbers), 3, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1.6]})
    for (whole, crop, bars), mask in zip(axes, numbers, strict=True):
        whole.imshow(render_heat(picture, maps.masks[mask].float().cpu().numpy(), top=1.0))
        whole.set_title(f"mask {mask}")
        _draw_crop(crop, maps, calibration, mask)
        for ax in (whole, crop):
            ax.set_axis_off()
        said = table[table["mask"] == mask]
        places, height = np.arange(len(said)), 0.8 / len(speakers)
        for number, who in enumerate(speakers):
            shifted = places + height * (number - (len(speakers) - 1) / 2)
            bars.barh(shifted, said[who].fillna(0), 0.93 * height, color=_SPEAKERS[who], label=who)
        bars.set_yticks(places, list(said["class"]), size=7.5)
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
    figure.legend(*axes[0][2].get_legend_handles_labels(), loc="outside lower center", ncols=len(speakers))
    caption = (
        "Masks that count most; the crop that CLIP is shown, blank parts in grey; and the first classes of the "
        "proposal network (which also weighs the mask), of CLIP, and of both combined."
    )
    if calibration is not None:
        changed = int((calibration.before.argmax(1) != calibration.after.argmax(1)).sum())
        caption += (
            " The more layers overwrite a blank patch with the image's class token, the more orange it is. SIM changed "
            f"the best class of {changed} of {len(calibration.after)} proposals."
        )
    return Panel(f"proposals_{name}", figure, table, f"Mask proposals: {name}", caption)


def _said_of(maps: ProposalMaps, calibration: CalibrationMaps | None, mask: int) -> dict[str, np.ndarray]:
    """Class values of one mask, by who gives them."""
    given = {"proposal network": maps.proposals, "combined": maps.combined}
    if calibration is not None:
        given = {"before SIM": calibration.before, "after SIM": calibration.after, "combined": maps.combined}
    said = {who: values[mask] for who, values in given.items() if values is not None}
    place = _crop_number(maps, mask)
    if place is not None:
        said["CLIP on the crop"] = maps.clip[place]
    return {who: values.float().cpu().numpy() for who, values in said.items()}


def _crop_number(maps: ProposalMaps, mask: int) -> int | None:
    """Which of the crops is a mask's; None if it has none."""
    if maps.valid is None or not bool(maps.valid[mask]):
        return None
    return int(maps.valid[:mask].sum())


def _draw_crop(ax: Axes, maps: ProposalMaps, calibration: CalibrationMaps | None, mask: int) -> None:
    """The box of a mask: blank pixels, or blank patches and those that CS overwrites, over the picture."""
    place = _crop_number(maps, mask)
    if place is None:
        ax.set_title("no crop")
        return
    x0, y0, x1, y1 = maps.boxes[place].tolist()
    picture = maps.image[:, y0:y1, x0:x1].permute(1, 2, 0).cpu().numpy()
    if calibration is None:
        inside = (maps.masks[mask, y0:y1, x0:x1] > maps.threshold).cpu().numpy()
        ax.imshow(np.where(inside[..., None], picture, np.uint8(128)))
        ax.set_title("its crop")
        return
    ax.imshow(panel_picture(picture), extent=(0, 1, 1, 0))
    kept = calibration.kept[place].cpu().numpy().reshape(calibration.grid, calibration.grid)
    colours = np.zeros((*kept.shape, 4))
    colours[~kept] = (0.5, 0.5, 0.5, 0.75)
    layers = [chosen[place].cpu().numpy().reshape(kept.shape) for chosen in calibration.shifted.values()]
    if layers:
        share = np.mean(layers, axis=0)
        colours[share > 0, :3] = mpl.colors.to_rgb("tab:orange")
        colours[share > 0, 3] = 0.4 + 0.6 * share[share > 0]
    ax.imshow(colours, extent=(0, 1, 1, 0), interpolation="nearest")
    overwritten = max((int(layer.sum()) for layer in layers), default=0)
    ax.set_title(f"{overwritten} of {int((~kept).sum())} blank tokens overwritten a layer")


@styled
def search_heatmap(table: pd.DataFrame, caption: str) -> Panel:
    """MIoU by mask threshold (rows) and weight of CLIP (columns); the best ones are outlined.

    Args:
        table: columns ``threshold``, ``weight``, ``mIoU``.
        caption: what was scored.
    """
    grid = table.pivot(index="threshold", columns="weight", values="mIoU")
    figure = new_figure(1.1 * len(grid.columns) + 2.4, 0.6 * len(grid) + 1.4)
    ax = figure.add_subplot()
    sns.heatmap(grid, ax=ax, cmap="viridis", annot=True, fmt=".1f", cbar_kws={"label": "mIoU (%)"}, linewidths=0.5)
    for _, best in table[table["mIoU"].round(1) == table["mIoU"].round(1).max()].iterrows():
        place = (grid.columns.get_loc(best["weight"]), grid.index.get_loc(best["threshold"]))
        ax.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="#D53014", linewidth=2.5))
    ax.set(xlabel="weight of CLIP", ylabel="mask threshold")
    return Panel("ensemble_search", figure, table, "Mask threshold and weight of CLIP", caption)

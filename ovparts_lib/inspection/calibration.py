"""What SCAN's two modules do to mask proposals: SIM to their classes, CS to the background tokens of their crops."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovparts_lib.inspection.attention import render_heat
from ovparts_lib.inspection.figures import new_figure, panel_picture, styled
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps

SHOWN = 4  # proposals, and classes of each
_STEPS = ("before SIM", "after SIM", "CLIP on the crop", "combined")


@styled
def calibrated_proposals(
    proposals: ProposalMaps, calibration: CalibrationMaps, *, chosen: Sequence[int] | None = None
) -> Figure:
    """A row per proposal: its mask, its crop with the tokens that CS overwrote, and its classes at each step.

    In the crop, patches without any of the mask are grey; the more layers overwrite one of them, the more orange it is.

    Args:
        proposals: ``maps["proposals"]`` from ``inspect``.
        calibration: ``maps["calibration"]``.
        chosen: which proposals; by default those that score most pixels.
    """
    chosen = largest_proposals(proposals) if chosen is None else chosen
    table = calibration_table(proposals, calibration, chosen=chosen)
    picture = panel_picture(proposals.image.cpu())
    figure = new_figure(11.0, len(chosen) * 2.7 + 0.4, pictures=True)
    axes = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(1.2, 1, 1.6))
    for row, number in zip(axes, chosen, strict=True):
        row[0].imshow(render_heat(picture, proposals.masks[number].float().cpu().numpy(), top=1.0))
        row[0].set_title(f"proposal {number}")
        _draw_crop(row[1], proposals, calibration, number)
        for ax in row[:2]:
            ax.set_axis_off()
        _draw_classes(row[2], table[table["proposal"] == number])
    return figure


def calibration_table(
    proposals: ProposalMaps, calibration: CalibrationMaps, *, chosen: Sequence[int] | None = None
) -> pd.DataFrame:
    """Data behind :func:`calibrated_proposals`: a row per proposal and class, the best classes of any step.

    Columns are the proposal, the class, its probability ``before SIM``, ``after SIM`` and by ``CLIP on the crop`` (NaN
    without a crop), and what the mask counts for it (``combined``).
    """
    rows = []
    for number in largest_proposals(proposals) if chosen is None else chosen:
        place = _crop_of(proposals, number)
        clip = torch.full_like(calibration.after[number], torch.nan) if place is None else proposals.clip[place]
        steps = torch.stack([calibration.before[number], calibration.after[number], clip, proposals.combined[number]])
        best = steps.nan_to_num(0).amax(0).argsort(descending=True, stable=True)[:SHOWN]
        rows += [
            {"proposal": number, "class": proposals.classes[each]}
            | dict(zip(_STEPS, steps[:, each].tolist(), strict=True))
            for each in best.tolist()
        ]
    return pd.DataFrame(rows, columns=["proposal", "class", *_STEPS])


def changed_by_integration(calibration: CalibrationMaps) -> int:
    """How many proposals have another best class after SIM than before it."""
    return int((calibration.before.argmax(1) != calibration.after.argmax(1)).sum())


def largest_proposals(proposals: ProposalMaps, count: int = SHOWN) -> list[int]:
    """The proposals that score most, summed over pixels, for their best class."""
    weight = proposals.combined.amax(1) * proposals.masks.sum((1, 2))
    return weight.argsort(descending=True, stable=True)[:count].tolist()


def _crop_of(proposals: ProposalMaps, number: int) -> int | None:
    """Which of the crops is a proposal's."""
    if proposals.valid is None or not proposals.valid[number]:
        return None
    return int(proposals.valid[:number].sum())


def _draw_crop(ax: Axes, proposals: ProposalMaps, calibration: CalibrationMaps, number: int) -> None:
    place = _crop_of(proposals, number)
    if place is None:
        ax.set_title("no crop")
        return
    left, top, right, bottom = proposals.boxes[place].tolist()
    ax.imshow(panel_picture(proposals.image[:, top:bottom, left:right].cpu()), extent=(0, 1, 1, 0))
    ax.imshow(_token_colours(calibration, place), extent=(0, 1, 1, 0), interpolation="nearest")
    overwritten = [int(chosen[place].sum()) for chosen in calibration.shifted.values()]
    blank = int((~calibration.kept[place]).sum())
    ax.set_title(f"{max(overwritten, default=0)} of {blank} blank tokens overwritten a layer")


def _token_colours(calibration: CalibrationMaps, place: int) -> np.ndarray:
    """RGBA (grid, grid, 4): clear where the mask is, grey in the background, orange where CS overwrites."""
    kept = calibration.kept[place].cpu().numpy().reshape(calibration.grid, calibration.grid)
    colours = np.zeros((*kept.shape, 4))
    colours[~kept] = (0.5, 0.5, 0.5, 0.75)
    layers = [chosen[place].cpu().numpy().reshape(kept.shape) for chosen in calibration.shifted.values()]
    if layers:
        share = np.mean(layers, axis=0)
        colours[share > 0, :3] = mpl.colors.to_rgb("tab:orange")
        colours[share > 0, 3] = 0.4 + 0.6 * share[share > 0]
    return colours


def _draw_classes(ax: Axes, table: pd.DataFrame) -> None:
    places, height = np.arange(len(table)), 0.8 / len(_STEPS)
    for step, name in enumerate(_STEPS):
        ax.barh(places + step * height, table[name].fillna(0), height, label=name)
    ax.set_yticks(places + 1.5 * height, [str(name)[:28] for name in table["class"]])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.legend(loc="lower right", fontsize=7)

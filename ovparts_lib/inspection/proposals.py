"""Mask proposals: the masks, how sure they are of themselves, and what each stage calls them."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ovparts_lib.inspection.attention import render_heat
from ovparts_lib.inspection.figures import new_figure, panel_aspect, panel_picture, styled, wrapped
from ovparts_lib.systems.proposals import ProposalMaps, mask_overlap, mask_quality

_PANEL = 2.75  # inches


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
def proposal_grid(maps: ProposalMaps, table: pd.DataFrame, *, columns: int = 4, count: int = 12) -> Figure:
    """The first masks of a table of :func:`proposal_table` over the picture, with their classes and quality."""
    shown, picture = table.head(count), panel_picture(maps.image)
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    aspect = panel_aspect(picture)
    figure = new_figure(_PANEL * columns, rows * (_PANEL * aspect + 0.75) + 0.2, pictures=True)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, row in zip(axes, shown.to_dict("records"), strict=False):
        ax.imshow(render_heat(picture, maps.masks[row["mask"]].float().cpu().numpy(), top=1.0))
        words = [f"{title}: {row[key]} {row[f'{key}_score']:.2f}" for title, key in _opinions(row)]
        ax.set_title("\n".join(wrapped(word, 34, lines=2) for word in [*words, f"mask quality {row['quality']:.2f}"]))
    return figure


def _opinions(row: dict[str, object]) -> list[tuple[str, str]]:
    named = [("stage 1", "stage1"), ("CLIP", "clip")]
    found = [(title, key) for title, key in named if isinstance(row.get(key), str)]
    return found or [("all", "combined")]

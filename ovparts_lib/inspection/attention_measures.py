"""How far apart, and how strong, the parts of an object are in a decoder's attention: as numbers and as maps.

What PartCLIPSeg's two attention losses are about (Choi et al., NeurIPS 2024, section 3.4), read off the ground truth:
each part's patches ask, and one map says which patches they attend to. The maps that belong together are those of the
part, of its generic name's query and of its object's query, where a system has such queries.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.inspection.arrays import LabelMap, as_labels
from ovparts_lib.inspection.figures import Panel, new_figure, styled
from ovparts_lib.inspection.palette import SEEN, UNSEEN
from ovparts_lib.models.attention_overlap import memberships, overlap, strength
from ovparts_lib.systems.scores import AttentionMaps, Scores
from ovparts_lib.vocabularies import PartVocabulary

MEASURES = {
    "shared": "overlap: share of claimed patches that another part claims too",
    "strength": "strength: peak of the part's map",
}
# Separation is to lower the first two, enhancement to raise the third; the last says whether that serves the part.
CHANGING = ("object_overlap", "shared", "strength", "on_part")


def attention_statistics(
    scores: Scores,
    attention: AttentionMaps,
    part_map: LabelMap,
    vocabulary: PartVocabulary,
    *,
    layer: int | None = None,
    threshold: float = 0.3,
) -> pd.DataFrame:
    """Overlap and strength in attention of the parts of one image.

    Args:
        scores: only the parts it holds are measured.
        attention: ``maps["attention"]`` from ``inspect``, of the same parts.
        part_map: ground truth, integer (H, W) of the image's size, ids of ``vocabulary``.
        vocabulary: of the ids.
        layer: of the decoder; the last one by default.
        threshold: of a map, stretched to 0..1, above which its part claims a patch.

    Returns:
        A row per part that has a patch: ``object``, ``part``; ``patches``, its number of patches; ``strength``, the
        peak of its smoothed map; ``claimed``, the number of its object's patches that it claims; ``shared``, the share
        of those that another part of the object claims too (NaN where it claims none); ``on_part``, the share of its
        map that lies on its own patches; ``object_overlap``, patches claimed by two parts or more as a share of all
        claimed in the object, which is what the separation loss lessens. An object's patches are those of its parts.

    Raises:
        ValueError: there is no attention of that layer, or the map does not fit the image.
    """
    weights = layer_of(attention, layer)
    labels = patch_labels(part_map, scores.image_size, attention.grid)
    maps = {}
    for place, part in enumerate(scores.class_ids):
        if (labels == part).any():
            maps[part] = pooled_map(weights[place], labels == part)
    rows = []
    for number, name in enumerate(vocabulary.objects):
        own = [part for part in vocabulary.parts_of(number) if part in maps]
        if not own:
            continue
        stacked = torch.stack([maps[part] for part in own])
        box = torch.isin(labels, torch.tensor(vocabulary.parts_of(number)))
        claims = memberships(stacked, box, threshold)
        together, peaks = float(overlap(claims)), strength(stacked)
        for place, part in enumerate(own):
            claim, others = claims[place] > 0, claims.sum(0) > 1
            claimed = int(claim.sum())
            patches, strong = int((labels == part).sum()), float(peaks[place])
            shared = int((claim & others).sum()) / claimed if claimed else np.nan
            on_part = float(maps[part][labels == part].sum() / maps[part].sum())
            rows.append((name, vocabulary.parts[part], patches, strong, claimed, shared, on_part, together))
    columns = ["object", "part", "patches", "strength", "claimed", "shared", "on_part", "object_overlap"]
    return pd.DataFrame(rows, columns=columns)


def attention_by_class(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Means over images, a row per part in the order of first appearance.

    Args:
        tables: of :func:`attention_statistics`, one per image.

    Returns:
        ``object``, ``part``, ``images`` and the means of ``strength``, ``shared``, ``on_part``, ``object_overlap``;
        empty if no table has a row.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame()
    groups = pd.concat(filled).groupby(["object", "part"], sort=False)
    means = groups[["strength", "shared", "on_part", "object_overlap"]].mean()
    return means.assign(images=groups.size())[["images", *means.columns]].reset_index()


def attention_changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Overlap and strength of each part at two moments, side by side, and what has changed.

    Args:
        before: of :func:`attention_by_class`.
        after: the same of the same images.

    Returns:
        ``object``, ``part``, ``images``, and for each measure ``<measure>_before``, ``<measure>_after`` and
        ``<measure>_difference`` (after less before); NaN where a part was not measured at one of the moments.
    """
    parts = list(dict.fromkeys([*before["part"], *after["part"]]))  # an outer merge would sort them
    both = before.merge(after, on=["object", "part"], how="outer", suffixes=("_before", "_after"))
    both = both.set_index("part").loc[parts].reset_index()
    both["images"] = both["images_after"].fillna(both["images_before"]).astype(int)
    for measure in CHANGING:
        both[f"{measure}_difference"] = both[f"{measure}_after"] - both[f"{measure}_before"]
    measures = [f"{measure}_{which}" for measure in CHANGING for which in ("before", "after", "difference")]
    return both[["object", "part", "images", *measures]]


def pooled_map(weights: Tensor, asking: Tensor) -> Tensor:
    """What some patches attend to: mean over heads and over the query patches.

    Args:
        weights: softmax weights (heads, t, t), rows queries, token 0 the class token.
        asking: bool (gh, gw), at least one of them True.

    Returns:
        float32 (gh, gw) on the CPU; the class token's share is left out, so that it sums to at most 1.
    """
    rows = weights.detach().float().cpu().mean(0)[1:, 1:][asking.flatten()]
    return rows.mean(0).view_as(asking)


@styled
def attention_comparison(
    tables: Mapping[str, pd.DataFrame], name: str, title: str, *, unseen: Collection[str] = ()
) -> Panel:
    """Overlap and strength of each part, before and after training, or of several runs: a panel per measure.

    Args:
        tables: of :func:`attention_by_class`, by name; a line joins the same part's values.
        name: of the panel.
        title: of the panel.
        unseen: objects whose parts are marked with an asterisk.
    """
    indexed = {key: table.set_index("part") for key, table in tables.items()}
    owners = {part: owner for table in indexed.values() for part, owner in table["object"].items()}
    parts = list(owners)
    figure = new_figure(min(11.0, 4.6 * len(MEASURES) + 1.4), 0.2 * len(parts) + 1.2)
    axes = figure.subplots(1, len(MEASURES), squeeze=False, sharey=True)[0]
    colours = ["#9A9A9A", SEEN, UNSEEN, "#2CA02C", "#7E57C2"]
    for ax, measure in zip(axes, MEASURES, strict=True):
        values = np.array([table[measure].reindex(parts).to_numpy(float) for table in indexed.values()])
        for place in range(len(parts)):
            ax.plot(values[:, place], [place] * len(indexed), color="#CFCFCF", linewidth=1.2, zorder=1)
        for number, key in enumerate(indexed):
            colour = colours[number % len(colours)]
            ax.scatter(values[number], range(len(parts)), s=20, color=colour, marker="os^Dv"[number % 5], label=key)
        ax.set_xlabel(MEASURES[measure])
        ax.set_xlim(left=0)
        ax.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axes[0].set_yticks(range(len(parts)), [f"{part} *" if owners[part] in unseen else part for part in parts])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(indexed))
    rows = pd.concat([table.assign(run=key) for key, table in tables.items()], ignore_index=True)
    rows["group"] = np.where(rows["object"].isin(unseen), "unseen", "seen")
    caption = (
        "Overlap (less is more separate; no mark where a part claims no patch) and strength of each part; parts marked "
        "* are of unseen objects."
    )
    return Panel(name, figure, rows, title, caption)


def layer_of(attention: AttentionMaps, layer: int | None) -> Tensor:
    """Weights (n, heads, t, t) of a layer of the decoder, the last for None; ValueError where it was not kept."""
    layer = max(attention.decoder) if layer is None else layer
    if layer not in attention.decoder:
        raise ValueError(f"no attention was kept of decoder layer {layer}; there are {sorted(attention.decoder)}")
    return attention.decoder[layer]


def patch_labels(part_map: LabelMap, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The label at the centre of each patch, int64 (gh, gw), of a part map (H, W) that has the image's ``size``."""
    labels = torch.from_numpy(as_labels(part_map, size))
    return F.interpolate(labels[None, None].double(), size=grid, mode="nearest-exact")[0, 0].long()

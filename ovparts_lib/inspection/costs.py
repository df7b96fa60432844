"""What cost aggregation does: similarities before and after it, and what classes attend to."""

import numpy as np
import pandas as pd
import seaborn as sns
from torch import Tensor

from ovparts_lib.inspection.arrays import Picture, panel_picture
from ovparts_lib.inspection.figures import Panel, new_figure, picture_panels, styled
from ovparts_lib.inspection.heat_maps import render_heat
from ovparts_lib.systems.scores import CostMaps, Scores

_OTHERS = 6  # classes shown in class attention beside the words


@styled
def cost_maps(image: Picture, scores: Scores, cost: CostMaps, name: str, *, generic: bool = False) -> Panel:
    """The picture, each word's cost map and the map after aggregation; a row per word, the four that score highest.

    Cost maps are cosine similarities, stretched from their own least to their own largest value, for they differ little
    from patch to patch; scores after aggregation are sigmoids on the scale 0..1.

    Args:
        image: the picture the scores belong to.
        scores: from ``inspect``; says what of the image the maps cover.
        cost: ``maps["cost"]``, or ``maps["generic_cost"]`` of a system with such a stage.
        name: of the picture.
        generic: whether ``cost`` is of generic parts and objects, of which all are shown.

    Returns:
        With a table of both maps, whole: a row per word, map and position; ``map`` is ``before`` (``value`` is a
        cosine) or ``after`` (a sigmoid), each at its own resolution.
    """
    best = cost.after.amax((1, 2)).argsort(descending=True, stable=True)[:4].tolist()
    indices = range(len(cost.queries)) if generic else best
    picture = panel_picture(image)
    figure, axes = picture_panels(3 * len(indices), 3, picture, width=3.0)
    for row, index in zip(axes, indices, strict=True):
        before = _covering(cost.before[index], scores)
        after = _covering(cost.after[index].sigmoid(), scores)
        row[0].imshow(picture)
        row[1].imshow(render_heat(picture, before - before.min()))
        row[2].imshow(render_heat(picture, after, top=1.0))
        row[0].set_title(f"“{cost.queries[index]}”")
        row[1].set_title(f"cosine {before.min():.2f} to {before.max():.2f}")
        row[2].set_title(f"after aggregation, peak {after.max():.2f}")
    cells = [
        (word, stage, *place, value)
        for stage, maps in (("before", cost.before), ("after", cost.after.sigmoid()))
        for word, values in zip(cost.queries, maps.float().cpu().numpy(), strict=True)
        for place, value in np.ndenumerate(values)
    ]
    table = pd.DataFrame(cells, columns=["word", "map", "row", "column", "value"])
    caption = "Similarity of every patch with the words (mean over prompt templates), and the scores after aggregation."
    file, title = _stage(generic)
    return Panel(f"cost{file}_{name}", figure, table, f"Cost maps{title}: {name}", caption)


@styled
def class_attention(cost: CostMaps, name: str, *, generic: bool = False) -> Panel:
    """How much each word attends to itself, to the others shown and to the classes that it attends to most.

    Of the last layer, mean over pixels and heads.

    Args:
        cost: ``maps["cost"]`` or ``maps["generic_cost"]`` from ``inspect``.
        name: of the picture.
        generic: whether ``cost`` is of generic parts and objects.

    Returns:
        With a table of a row per word; a column per word, then per other class, most first.
    """
    weights = cost.class_attention[max(cost.class_attention)]
    queries = list(cost.queries)
    table = pd.DataFrame(weights.float().cpu().numpy(), index=pd.Index(queries, name="attending"), columns=cost.classes)
    rest = table.drop(columns=queries).max().sort_values(ascending=False, kind="stable")
    table = table[[*queries, *rest.index[:_OTHERS]]]
    figure = new_figure(0.55 * table.shape[1] + 3.4, 0.5 * len(table) + 2.6)
    ax = figure.subplots()
    sns.heatmap(
        table, ax=ax, cmap="viridis", annot=table.shape[1] <= 16, fmt=".2f", vmin=0, cbar_kws={"label": "attention"}
    )
    ax.set(xlabel="attended to", ylabel="attending")
    ax.tick_params(axis="y", rotation=0)
    caption = (
        "How much each word (row) attends to itself and the others in the last layer of class aggregation, mean over "
        "pixels and heads; the columns behind the words are the other classes attended to most."
    )
    file, title = _stage(generic)
    title = f"Class attention{title}: {name}"
    return Panel(f"class_attention{file}_{name}", figure, table.reset_index(), title, caption)


def _stage(generic: bool) -> tuple[str, str]:
    """What is added to a panel's name and title for the first of two stages."""
    return ("_generic", ", generic parts and objects") if generic else ("", "")


def _covering(values: Tensor, scores: Scores) -> np.ndarray:
    """The part of a map (h, w) that lies over the picture, where the system padded it."""
    values = values.float().cpu()
    sizes = zip(values.shape, scores.image_size, scores.covered_size or scores.image_size, strict=True)
    height, width = (max(1, round(side * size / covered)) for side, size, covered in sizes)
    return values[:height, :width].contiguous().numpy()

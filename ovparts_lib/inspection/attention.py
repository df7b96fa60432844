"""Where a model looks, where each word scores, and what cost aggregation does: heat maps over the picture."""

from collections.abc import Sequence
from itertools import product

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from ovparts_lib.inspection.figures import Panel, Picture, as_picture, new_figure, panel_picture, picture_panels, styled
from ovparts_lib.systems.scores import AttentionMaps, CostMaps, Scores

ASKING = "from the patch where the word scores highest (cross)"
_OPACITY = 0.8  # of the brightest heat colour
_COLOUR_MAP = "inferno"  # even in lightness, also for colour-blind eyes
_OTHERS = 6  # classes shown in class attention beside the words


def attention_map(attention: Tensor, grid: tuple[int, int], place: tuple[int, int]) -> np.ndarray:
    """What a patch attends to: a row of a layer's attention weights, averaged over heads.

    Args:
        attention: softmax weights (heads, t, t), rows queries; token 0 is the class token.
        grid: patches (gh, gw), t = 1 + gh * gw.
        place: (row, column) of the query patch.

    Returns:
        float64 (gh, gw). It sums to at most 1: the share that goes to the class token is not shown.
    """
    weights = attention.detach().double().cpu().mean(0)
    row, column = place
    return weights[1 + row * grid[1] + column, 1:].reshape(grid).numpy()


def peak_patch(logits: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """The patch (row, column) that holds the largest of the logits (h, w)."""
    row, column = divmod(int(logits.argmax()), logits.shape[1])
    return row * grid[0] // logits.shape[0], column * grid[1] // logits.shape[1]


def render_heat(image: Picture, values: np.ndarray, *, top: float | None = None) -> np.ndarray:
    """A map of any resolution over the grey picture, bilinearly resized, at the picture's full size.

    Args:
        image: uint8 (3, H, W) or (H, W, 3).
        values: (h, w), from 0.
        top: the value shown brightest; by default the largest.

    Returns:
        uint8 (H, W, 3).
    """
    picture = as_picture(image)
    top = float(values.max()) if top is None else top
    full = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None],
        size=picture.shape[:2],
        mode="bilinear",
        align_corners=False,
    )[0, 0].numpy()
    levels = np.clip(full / top if top > 0 else full, 0, 1)
    # Where there is little to see, more of the picture shows through.
    weights = _OPACITY * (0.4 + 0.6 * np.linspace(0, 1, 256, dtype=np.float32)[:, None])
    heat = weights * (255 * mpl.colormaps[_COLOUR_MAP](np.arange(256))[:, :3]).astype(np.float32)
    index = np.rint(levels * 255).astype(np.uint8)
    grey = picture.mean(axis=2, dtype=np.float32)[..., None]
    return np.rint(heat[index] + grey * (1 - weights)[index]).astype(np.uint8)


@styled
def decoder_attention(image: Picture, scores: Scores, attention: AttentionMaps, name: str) -> Panel:
    """Self-attention of the decoder: a row per word, those that score highest first, and a column per layer.

    Each map is the mean over heads, from the patch in which the word scores highest.

    Args:
        image: the picture the scores belong to.
        scores: a channel per query of ``attention``.
        attention: ``maps["attention"]`` from ``inspect``.
        name: of the picture.
    """
    layers, maps = sorted(attention.decoder), {}
    for index, layer in product(_best_first(scores)[:4], layers):
        place = peak_patch(scores.logits[index], attention.grid)
        values = attention_map(attention.decoder[layer][index], attention.grid, place)
        maps[f"“{attention.queries[index]}”, layer {layer}"] = values, place
    columns = len(layers) if len(layers) > 1 else 4  # words stand side by side where there is one layer
    heading = f"Decoder self-attention, mean over heads, {ASKING}"
    caption = f"Where the decoder looks, {ASKING}, layer by layer; each map up to its own peak."
    return _attention_panel("Decoder", name, image, maps, columns, heading, caption)


@styled
def clip_attention(image: Picture, scores: Scores, attention: AttentionMaps, name: str) -> Panel:
    """Self-attention of CLIP's image tower, a panel per block, mean over heads, from the best word's best patch.

    Args:
        image: the picture the scores belong to.
        scores: a channel per query of ``attention``.
        attention: ``maps["attention"]`` from ``inspect``.
        name: of the picture.
    """
    best = _best_first(scores)[0]
    place = peak_patch(scores.logits[best], attention.grid)
    maps = {
        f"block {block}": (attention_map(attention.clip[block], attention.grid, place), place)
        for block in sorted(attention.clip)
    }
    asks = ASKING.replace("the word", f"“{attention.queries[best]}”")
    heading = f"CLIP image tower, self-attention, mean over heads, {asks}"
    caption = f"Where CLIP's image tower looks, {asks}, block by block; each map up to its own peak."
    return _attention_panel("CLIP", name, image, maps, 5, heading, caption)


@styled
def score_maps(
    image: Picture,
    scores: Scores,
    words: Sequence[str],
    name: str,
    *,
    chosen: Sequence[str] | None = None,
    columns: int = 4,
) -> Panel:
    """What each word scores over the picture, all on one scale: the sigmoid of logits, or what masks add up to.

    Args:
        image: the picture the scores belong to.
        scores: a channel per entry of ``scores.class_ids``.
        words: names by class id, such as ``vocabulary.classes``.
        name: of the picture.
        chosen: the words to show; by default all, those with the highest peak first, up to twelve.
        columns: panels side by side.

    Returns:
        With a table of each word's peak, mean, and share of the map above one half.
    """
    names, maps = [words[number] for number in scores.class_ids], scores.class_maps().detach().float()
    maps, kind = (maps, "score") if scores.probabilities else (maps.sigmoid(), "sigmoid of the logit")
    maps = maps.cpu().numpy()
    if chosen is None:
        order = np.argsort(-maps.max(axis=(1, 2)), kind="stable")[:12].tolist()
    else:
        order = [names.index(word) for word in chosen]
    top = max(1.0, float(maps.max()))
    picture = panel_picture(image, 640)
    figure, axes = picture_panels(len(order), columns, picture, width=3.6, gap=0.28)
    for ax, index in zip(axes.ravel(), order, strict=False):
        ax.imshow(render_heat(picture, maps[index], top=top))
        ax.set_title(f"{names[index]} (peak {maps[index].max():.2f})")
    bar = ScalarMappable(Normalize(0, top), _COLOUR_MAP)
    figure.colorbar(bar, ax=axes, shrink=0.8, aspect=30, pad=0.01, label=kind)
    shown = maps[order]
    table = pd.DataFrame({"word": [names[index] for index in order], "peak": shown.max(axis=(1, 2))})
    table = table.assign(mean=shown.mean(axis=(1, 2)), share_above_half=(shown > 0.5).mean(axis=(1, 2)))
    caption = f"{kind.capitalize()} of each word, all on one scale from 0 to {top:.2g}."
    return Panel(f"scores_{name}", figure, table, f"Score maps: {name}", caption)


def attention_table(maps: dict[str, np.ndarray]) -> pd.DataFrame:
    """Data behind an attention figure: one row per map and patch, from maps (gh, gw) by name."""
    cells = [(name, *place, weight) for name, values in maps.items() for place, weight in np.ndenumerate(values)]
    return pd.DataFrame(cells, columns=["map", "row", "column", "attention"])


def _best_first(scores: Scores) -> list[int]:
    """Channels in descending order of their peaks."""
    return scores.logits.detach().amax((1, 2)).argsort(descending=True, stable=True).tolist()


def _attention_panel(
    whose: str,
    name: str,
    image: Picture,
    maps: dict[str, tuple[np.ndarray, tuple[int, int]]],
    columns: int,
    heading: str,
    caption: str,
) -> Panel:
    """Heat maps, each up to its own peak, with a cross on the patch that asks."""
    picture = panel_picture(image, 640)
    figure, axes = picture_panels(len(maps), columns, picture, width=3.6, gap=0.62)
    for ax, (label, (values, place)) in zip(axes.ravel(), maps.items(), strict=False):
        top = float(values.max())
        ax.imshow(render_heat(picture, values, top=top))
        ax.set_title(label)
        scale = ScalarMappable(Normalize(0, top or 1.0), _COLOUR_MAP)
        bar = figure.colorbar(scale, ax=ax, location="bottom", shrink=0.7, aspect=25, pad=0.02)
        bar.set_ticks([0, top or 1.0], labels=["0", f"{top:.2g}"])
        y, x = ((place[i] + 0.5) / values.shape[i] * picture.shape[i] for i in (0, 1))
        ax.plot(x, y, marker="x", markersize=9, markeredgewidth=3.5, color="black")
        ax.plot(x, y, marker="x", markersize=8, markeredgewidth=1.6, color="cyan")
    figure.suptitle(heading, fontsize=10.5)
    table = attention_table({label: values for label, (values, _) in maps.items()})
    return Panel(f"attention_{whose.lower()}_{name}", figure, table, f"{whose} attention: {name}", caption)


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
    return Panel(
        f"class_attention{file}_{name}", figure, table.reset_index(), f"Class attention{title}: {name}", caption
    )


def _stage(generic: bool) -> tuple[str, str]:
    """What is added to a panel's name and title for the first of two stages."""
    return ("_generic", ", generic parts and objects") if generic else ("", "")


def _covering(values: Tensor, scores: Scores) -> np.ndarray:
    """The part of a map (h, w) that lies over the picture, where the system padded it."""
    values = values.float().cpu()
    if scores.covered_size is not None:
        kept = (
            max(1, round(side * size / covered))
            for side, size, covered in zip(values.shape, scores.image_size, scores.covered_size, strict=True)
        )
        height, width = kept
        values = values[:height, :width]
    return values.contiguous().numpy()

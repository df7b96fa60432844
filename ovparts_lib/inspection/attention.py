"""Where a model looks: attention of the decoder and of CLIP's image tower, as heat maps over the picture."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from ovparts_lib.inspection.arrays import Picture, panel_picture
from ovparts_lib.inspection.figures import Panel, picture_panels, styled
from ovparts_lib.inspection.heat_maps import COLOUR_MAP, render_heat
from ovparts_lib.systems.scores import AttentionMaps, Scores

ASKING = "from the patch where the word scores highest (cross)"


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
    values = {block: attention_map(attention.clip[block], attention.grid, place) for block in sorted(attention.clip)}
    maps = {f"block {block}": (shown, place) for block, shown in values.items()}
    asks = ASKING.replace("the word", f"“{attention.queries[best]}”")
    heading = f"CLIP image tower, self-attention, mean over heads, {asks}"
    caption = f"Where CLIP's image tower looks, {asks}, block by block; each map up to its own peak."
    return _attention_panel("CLIP", name, image, maps, 5, heading, caption)


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
        scale = ScalarMappable(Normalize(0, top or 1.0), COLOUR_MAP)
        bar = figure.colorbar(scale, ax=ax, location="bottom", shrink=0.7, aspect=25, pad=0.02)
        bar.set_ticks([0, top or 1.0], labels=["0", f"{top:.2g}"])
        y, x = ((place[i] + 0.5) / values.shape[i] * picture.shape[i] for i in (0, 1))
        ax.plot(x, y, marker="x", markersize=9, markeredgewidth=3.5, color="black")
        ax.plot(x, y, marker="x", markersize=8, markeredgewidth=1.6, color="cyan")
    figure.suptitle(heading, fontsize=10.5)
    table = attention_table({label: values for label, (values, _) in maps.items()})
    return Panel(f"attention_{whose.lower()}_{name}", figure, table, f"{whose} attention: {name}", caption)

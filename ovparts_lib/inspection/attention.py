"""Where a model looks, and where each word scores: heat maps over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from ovparts_lib.inspection.figures import as_picture, new_figure, panel_aspect, panel_picture, styled
from ovparts_lib.systems.scores import AttentionMaps, Scores

Source = Literal["class_token", "peak", "received"]
SOURCES: dict[Source, str] = {
    "class_token": "from the class token",
    "peak": "from the patch where the word scores highest (cross)",
    "received": "received, mean over all asking patches",
}
_COLOUR_MAP = "inferno"  # even in lightness, also for colour-blind eyes


def attention_map(attention: Tensor, grid: tuple[int, int], source: Source | tuple[int, int]) -> np.ndarray:
    """One map over the patches from a layer's attention weights, averaged over heads.

    Args:
        attention: softmax weights (heads, t, t) or (t, t), rows asking; token 0 is the class token.
        grid: patches (gh, gw), t = 1 + gh * gw.
        source: ``class_token``, ``received``, or the (row, column) of the asking patch.

    Returns:
        float64 (gh, gw). A row sums to at most 1: the share that goes to the class token is not shown.

    Raises:
        ValueError: the number of tokens does not fit the grid, or no such patch.
    """
    weights = attention.detach().double().cpu()
    weights = weights.mean(0) if weights.ndim == 3 else weights
    height, width = grid
    if tuple(weights.shape) != (1 + height * width,) * 2:
        raise ValueError(f"attention over {tuple(weights.shape)} tokens does not fit a grid of {height} x {width}")
    if source == "class_token":
        chosen = weights[0, 1:]
    elif source == "received":
        chosen = weights[1:, 1:].mean(0)
    else:
        row, column = source
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"there is no patch {source} in a grid of {height} x {width}")
        chosen = weights[1 + row * width + column, 1:]
    return chosen.reshape(height, width).numpy()


def peak_patch(logits: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """The patch (row, column) that holds the largest of the logits (h, w)."""
    row, column = divmod(int(logits.argmax()), logits.shape[1])
    return row * grid[0] // logits.shape[0], column * grid[1] // logits.shape[1]


def render_heat(
    image: Tensor | np.ndarray, values: np.ndarray, *, top: float | None = None, opacity: float = 0.8
) -> np.ndarray:
    """A map of any resolution over the grey picture, bilinearly resized, at the picture's full size.

    Args:
        image: uint8 (3, H, W) or (H, W, 3).
        values: (h, w), from 0.
        top: the value shown brightest; by default the largest.
        opacity: of the brightest heat colour, 0..1.

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
    weights = opacity * (0.4 + 0.6 * np.linspace(0, 1, 256, dtype=np.float32)[:, None])
    heat = weights * (255 * mpl.colormaps[_COLOUR_MAP](np.arange(256))[:, :3]).astype(np.float32)
    index = np.rint(levels * 255).astype(np.uint8)
    grey = picture.mean(axis=2, dtype=np.float32)[..., None]
    return np.rint(heat[index] + grey * (1 - weights)[index]).astype(np.uint8)


@styled
def decoder_attention(
    image: Tensor | np.ndarray,
    scores: Scores,
    attention: AttentionMaps,
    *,
    words: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    source: Source = "peak",
) -> Figure:
    """Self-attention of the decoder: a row per word, a column per layer, mean over heads.

    Args:
        image: the picture the scores belong to.
        scores: a channel per query of ``attention``.
        attention: ``maps["attention"]`` from ``inspect``.
        words: of ``attention.queries``; by default the four that score highest.
        layers: of ``attention.decoder``; all by default.
        source: who asks; see ``SOURCES``.

    Raises:
        ValueError: no such word, layer or source.
    """
    indices = _query_indices(scores, attention, words)
    layers = _known(layers, attention.decoder, "decoder layer")
    picture = panel_picture(image, 640)
    figure, axes = _panels(picture, len(indices), len(layers))
    for row, index in enumerate(indices):
        place = _asking(source, scores.logits[index], attention.grid)
        for column, layer in enumerate(layers):
            ax = axes[row, column]
            _heat(figure, ax, picture, attention_map(attention.decoder[layer][index], attention.grid, place))
            _mark(ax, place, attention.grid, picture)
            ax.set_title(f"“{attention.queries[index]}”, layer {layer}")
    figure.suptitle(f"Decoder self-attention, mean over heads, {SOURCES[source]}", fontsize=10.5)
    return figure


@styled
def clip_attention(
    image: Tensor | np.ndarray,
    scores: Scores,
    attention: AttentionMaps,
    *,
    blocks: Sequence[int] | None = None,
    source: Source = "class_token",
    word: str | None = None,
    columns: int = 5,
) -> Figure:
    """Self-attention of CLIP's image tower, a panel per block, mean over heads.

    Args:
        image: the picture the scores belong to.
        scores: a channel per query of ``attention``.
        attention: ``maps["attention"]`` from ``inspect``.
        blocks: of ``attention.clip``; all by default.
        source: who asks; see ``SOURCES``.
        word: for ``peak``, the word whose best patch asks; the highest scoring by default.
        columns: panels side by side.

    Raises:
        ValueError: no such word, block or source.
    """
    blocks = _known(blocks, attention.clip, "block")
    index = _query_indices(scores, attention, None if word is None else [word])[0]
    place = _asking(source, scores.logits[index], attention.grid)
    picture, columns = panel_picture(image, 640), min(columns, len(blocks))
    figure, axes = _panels(picture, -(-len(blocks) // columns), columns)
    for ax in axes.ravel()[len(blocks) :]:
        ax.set_axis_off()
    for ax, block in zip(axes.ravel(), blocks, strict=False):
        _heat(figure, ax, picture, attention_map(attention.clip[block], attention.grid, place))
        _mark(ax, place, attention.grid, picture)
        ax.set_title(f"block {block}")
    asks = SOURCES[source].replace("the word", f"“{attention.queries[index]}”")
    figure.suptitle(f"CLIP image tower, self-attention, mean over heads, {asks}", fontsize=10.5)
    return figure


@styled
def score_maps(
    image: Tensor | np.ndarray,
    scores: Scores,
    words: Sequence[str],
    *,
    chosen: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """The sigmoid of each word's logit over the picture, all on the scale 0..1.

    Args:
        image: the picture the scores belong to.
        scores: a channel per entry of ``scores.class_ids``.
        words: names by class id, such as ``vocabulary.classes``.
        chosen: the words to show; by default all, those with the highest peak first, up to twelve.
        columns: panels side by side.

    Raises:
        ValueError: a chosen word has no score.
    """
    names, maps = [words[number] for number in scores.class_ids], _sigmoid(scores.class_maps())
    if chosen is None:
        order = np.argsort(-maps.max(axis=(1, 2)), kind="stable")[:12]
    else:
        order = [_index(word, names, "score map") for word in chosen]
    picture, columns = panel_picture(image, 640), min(columns, len(order))
    figure, axes = _panels(picture, -(-len(order) // columns), columns, bars=False)
    for ax in axes.ravel()[len(order) :]:
        ax.set_axis_off()
    for ax, index in zip(axes.ravel(), order, strict=False):
        ax.imshow(render_heat(picture, maps[index], top=1.0))
        ax.set_axis_off()
        ax.set_title(f"{names[index]} (peak {maps[index].max():.2f})")
    bar = ScalarMappable(Normalize(0, 1), _COLOUR_MAP)
    figure.colorbar(bar, ax=axes, shrink=0.8, aspect=30, pad=0.01, label="sigmoid of the logit")
    return figure


def score_table(scores: Scores, words: Sequence[str]) -> pd.DataFrame:
    """Data behind :func:`score_maps`: per word its peak, mean, and the share of the map above one half."""
    maps = _sigmoid(scores.class_maps())
    return pd.DataFrame(
        {
            "word": [words[number] for number in scores.class_ids],
            "peak": maps.max(axis=(1, 2)),
            "mean": maps.mean(axis=(1, 2)),
            "share_above_half": (maps > 0.5).mean(axis=(1, 2)),
        }
    )


def attention_table(maps: dict[str, np.ndarray]) -> pd.DataFrame:
    """Data behind an attention figure: one row per map and patch, from maps (gh, gw) by name."""
    cells = [(name, *place, weight) for name, values in maps.items() for place, weight in np.ndenumerate(values)]
    return pd.DataFrame(cells, columns=["map", "row", "column", "attention"])


def _sigmoid(logits: Tensor) -> np.ndarray:
    return logits.detach().float().sigmoid().cpu().numpy()


def _query_indices(scores: Scores, attention: AttentionMaps, words: Sequence[str] | None) -> list[int]:
    if words is not None:
        return [_index(word, attention.queries, "query") for word in words]
    return [int(i) for i in scores.logits.detach().amax((1, 2)).argsort(descending=True, stable=True)[:4]]


def _index(word: str, names: Sequence[str], kind: str) -> int:
    if word not in names:
        raise ValueError(f"there is no {kind} for {word!r}; there are {', '.join(names)}")
    return list(names).index(word)


def _known(asked: Sequence[int] | None, maps: dict[int, Tensor], kind: str) -> list[int]:
    missing = [number for number in asked or () if number not in maps]
    if missing or not maps:
        raise ValueError(f"no attention was kept of {kind} {missing[:1] or ''}; there are {sorted(maps)}")
    return list(asked) if asked is not None else sorted(maps)


def _asking(source: Source, logits: Tensor, grid: tuple[int, int]) -> Source | tuple[int, int]:
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, not {source!r}")
    return peak_patch(logits, grid) if source == "peak" else source


def _panels(picture: np.ndarray, rows: int, columns: int, *, bars: bool = True) -> tuple[Figure, np.ndarray]:
    aspect = panel_aspect(picture)
    width = min(11.0, 3.6 * columns + 0.6)
    panel = min(width / columns * aspect, 5.0)
    figure = new_figure(width, rows * (panel + (0.62 if bars else 0.28)) + (0.4 if bars else 0.1), pictures=True)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _heat(figure: Figure, ax: Axes, picture: np.ndarray, values: np.ndarray) -> None:
    top = float(values.max())
    ax.imshow(render_heat(picture, values, top=top))
    ax.set_axis_off()
    scale = ScalarMappable(Normalize(0, top or 1.0), _COLOUR_MAP)
    bar = figure.colorbar(scale, ax=ax, location="bottom", shrink=0.7, aspect=25, pad=0.02)
    bar.set_ticks([0, top or 1.0], labels=["0", f"{top:.2g}"])


def _mark(ax: Axes, place: Source | tuple[int, int], grid: tuple[int, int], picture: np.ndarray) -> None:
    if isinstance(place, tuple):
        y, x = ((place[i] + 0.5) / grid[i] * picture.shape[i] for i in (0, 1))
        ax.plot(x, y, marker="x", markersize=9, markeredgewidth=3.5, color="black")
        ax.plot(x, y, marker="x", markersize=8, markeredgewidth=1.6, color="cyan")

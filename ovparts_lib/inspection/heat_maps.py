"""Heat maps over the picture, and where each word scores."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ovparts_lib.inspection.arrays import Picture, as_picture, panel_picture
from ovparts_lib.inspection.figures import Panel, picture_panels, styled
from ovparts_lib.systems.scores import Scores

_OPACITY = 0.8  # of the brightest heat colour
COLOUR_MAP = "inferno"  # even in lightness, also for colour-blind eyes


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
    small = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    full = F.interpolate(small, size=picture.shape[:2], mode="bilinear")[0, 0].numpy()
    levels = np.clip(full / top if top > 0 else full, 0, 1)
    # Where there is little to see, more of the picture shows through.
    weights = _OPACITY * (0.4 + 0.6 * np.linspace(0, 1, 256, dtype=np.float32)[:, None])
    heat = weights * (255 * mpl.colormaps[COLOUR_MAP](np.arange(256))[:, :3]).astype(np.float32)
    index = np.rint(levels * 255).astype(np.uint8)
    grey = picture.mean(axis=2, dtype=np.float32)[..., None]
    return np.rint(heat[index] + grey * (1 - weights)[index]).astype(np.uint8)


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
    bar = ScalarMappable(Normalize(0, top), COLOUR_MAP)
    figure.colorbar(bar, ax=axes, shrink=0.8, aspect=30, pad=0.01, label=kind)
    shown = maps[order]
    table = pd.DataFrame({"word": [names[index] for index in order], "peak": shown.max(axis=(1, 2))})
    table = table.assign(mean=shown.mean(axis=(1, 2)), share_above_half=(shown > 0.5).mean(axis=(1, 2)))
    caption = f"{kind.capitalize()} of each word, all on one scale from 0 to {top:.2g}."
    return Panel(f"scores_{name}", figure, table, f"Score maps: {name}", caption)

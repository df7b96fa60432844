"""What parts attend to, and how a part's scores come from its generic part's and its object's: maps over the picture.

Every figure is drawn from a table, so that what is seen can be read from its CSV; tables of two moments (before and
after training) or of two runs stand side by side.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ovparts_lib.inspection.arrays import LabelMap, Picture, panel_picture
from ovparts_lib.inspection.attention_measures import layer_of, patch_labels, pooled_map
from ovparts_lib.inspection.figures import Panel, picture_panels, styled
from ovparts_lib.inspection.heat_maps import render_heat
from ovparts_lib.systems.scores import AttentionMaps, Scores
from ovparts_lib.vocabularies import PartVocabulary

_COLUMNS = ["part", "query", "row", "column", "asking", "attention"]


def part_attention_table(
    scores: Scores,
    attention: AttentionMaps,
    part_map: LabelMap,
    vocabulary: PartVocabulary,
    *,
    layer: int | None = None,
) -> pd.DataFrame:
    """What the patches of each labelled part attend to, for the part and for the queries it is made of.

    Args:
        scores: of the parts that ask.
        attention: ``maps["attention"]`` from ``inspect``, of the same parts.
        part_map: ground truth, integer (H, W) of the image's size, ids of ``vocabulary``.
        vocabulary: of the ids.
        layer: of the decoder; the last one by default.

    Returns:
        A row per part that has a patch, query and patch, the patches in row-major order: ``part``; ``query``, in words;
        ``row``, ``column``; ``asking``, whether the patch is one of the part's; ``attention``, how much the asking
        patches attend to it, mean over them and over heads (the class token's share is left out).

        No row if none of the parts has a patch.

    Raises:
        ValueError: there is no attention of that layer.
    """
    weights = layer_of(attention, layer)
    layer = max(attention.decoder) if layer is None else layer
    labels = patch_labels(part_map, scores.image_size, attention.grid)
    tables = []
    for place, part in enumerate(scores.class_ids):
        asking = labels == part
        if not asking.any():
            continue
        owner, generic = vocabulary.pairs[part]
        alone = [query for query in (("part", generic), ("object", owner)) if query in attention.components]
        maps = {"both queries" if alone else f"query “{attention.queries[place]}”": weights[place]}
        maps |= {f"{kind} query “{text}”": attention.components[kind, text][layer] for kind, text in alone}
        rows, columns = (axis.ravel() for axis in np.indices(asking.shape))
        for query, each in maps.items():
            values = pooled_map(each, asking).flatten().numpy()
            cells = (vocabulary.parts[part], query, rows, columns, asking.flatten().numpy(), values)
            tables.append(pd.DataFrame(dict(zip(_COLUMNS, cells, strict=True))))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=_COLUMNS)


@styled
def part_attention(image: Picture, tables: Mapping[str, pd.DataFrame], name: str, title: str) -> Panel:
    """What each part's patches attend to: a row per part, and each query's map, those of several tables side by side.

    Each map is shown up to its own peak, which its title gives: where it looks is seen, how strongly is read.

    Args:
        image: the picture.
        tables: of :func:`part_attention_table` for this picture, by name, such as ``before`` and ``after`` training.
        name: of the panel.
        title: of the panel.
    """
    if not any(len(table) for table in tables.values()):
        return Panel(name, title=title, caption="no part as large as a patch")
    merged = pd.concat([table.assign(stage=key) for key, table in tables.items()], ignore_index=True)
    lines = []
    for part, of_part in merged.groupby("part", sort=False):
        shown = []
        for query, of_query in of_part.groupby("query", sort=False):
            for key, of_table in of_query.groupby("stage", sort=False):
                values = _as_map(of_table, "attention")
                when = f"{key}: " if len(tables) > 1 else ""
                shown.append((f"{query}\n{when}peak {values.max():.2g}", values))
        asking = _as_map(of_part[of_part["query"] == of_part["query"].iloc[0]].drop_duplicates(["row", "column"]))
        lines.append([(f"asking:\n{part}", asking), *shown])
    caption = (
        "Where the patches of a part look, for the part, its generic name's query and its object's query; each map up "
        "to its own peak."
    )
    return Panel(name, _heat_maps(image, lines), merged, title, caption)


@styled
def composition(
    image: Picture, scores: Scores, generic_parts: Scores, part_map: LabelMap, vocabulary: PartVocabulary, name: str
) -> Panel:
    """The object, the generic part, their product, and the object-specific part: a row per part.

    What PartCLIPSeg's queries say by themselves, beside what its second stage makes of the two: if that only combined
    two decisions, the last two maps of a row would agree. Each map of probabilities is shown up to its own peak.

    Args:
        image: the picture the scores belong to.
        scores: with the background, so that objects are scored too.
        generic_parts: ``maps["generic_parts"]`` from ``inspect``.
        part_map: ground truth, integer (H, W) of the image's size, ids of ``vocabulary``.
        vocabulary: of the ids.
        name: of the picture.

    Returns:
        With a table of a row per part in ``scores`` and map: ``part``, ``map``; of the probabilities the ``peak``, the
        ``mean``, the means ``inside`` and ``outside`` the labelled part (NaN where there is no such pixel), and
        ``share_above_half``.

    Raises:
        ValueError: the scores hold no objects.
    """
    labels, lines, rows = patch_labels(part_map, scores.image_size, scores.logits.shape[-2:]).numpy(), [], []
    for part in scores.class_ids:
        inside, maps = labels == part, _composition(scores, generic_parts, part, vocabulary)
        lines.append([(f"{kind}\npeak {values.max():.2f}", values) for kind, values in maps.items()])
        for kind, values in maps.items():
            regions = [values[chosen].mean() if chosen.any() else np.nan for chosen in (inside, ~inside)]
            numbers = (values.max(), values.mean(), *regions, (values > 0.5).mean())
            rows.append((vocabulary.parts[part], kind, *map(float, numbers)))
    caption = (
        "What the object's and the generic part's query say by themselves, their product, and what the second stage "
        "makes of the pair: probabilities, each map up to its own peak."
    )
    table = pd.DataFrame(rows, columns=["part", "map", "peak", "mean", "inside", "outside", "share_above_half"])
    title = f"Object, generic part, and object-specific part: {name}"
    return Panel(f"composition_{name}", _heat_maps(image, lines), table, title, caption)


def _composition(scores: Scores, generic_parts: Scores, part: int, vocabulary: PartVocabulary) -> dict[str, np.ndarray]:
    """Probabilities (h, w) by what they are of."""
    if scores.objects is None:
        raise ValueError("the scores hold no objects; inspect with the background, with a system that predicts objects")
    owner, generic = vocabulary.part_to_object[part], vocabulary.part_to_generic[part]
    (objects,), (generics,) = scores.objects.class_maps([owner]), generic_parts.class_maps([generic])
    (own,) = scores.class_maps([part])
    one, other, pair = (each.detach().float().sigmoid().cpu().numpy() for each in (objects, generics, own))
    return {
        f"object “{vocabulary.objects[owner]}”": one,
        f"generic part “{vocabulary.generic_parts[generic]}”": other,
        "their product": one * other,
        f"“{vocabulary.parts[part]}”": pair,
    }


def _as_map(rows: pd.DataFrame, column: str = "asking") -> np.ndarray:
    height, width = int(rows["row"].max()) + 1, int(rows["column"].max()) + 1
    return rows[column].to_numpy(float).reshape(height, width)


def _heat_maps(image: Picture, lines: list[list[tuple[str, np.ndarray]]]) -> Figure:
    """Lines of maps (h, w) with their titles over the picture, each up to its own peak."""
    picture, columns = panel_picture(image), max(map(len, lines))
    figure, axes = picture_panels(columns * len(lines), columns, picture, width=2.6)
    size = min(9.5, 5.2 * figure.get_figwidth() / columns)
    for line, maps in zip(axes, lines, strict=True):
        for ax, (title, values) in zip(line, maps, strict=False):
            ax.imshow(render_heat(picture, values))
            ax.set_title(title, fontsize=size)
    return figure

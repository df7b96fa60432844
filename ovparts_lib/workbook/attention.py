"""Attention of parts before and after training, and what parts are composed of, as a notebook shows them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ovparts_lib import inspection
from ovparts_lib.inspection import Panel
from ovparts_lib.inspection.attention_measures import CHANGING
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.registry import load_system
from ovparts_lib.systems.scores import AttentionMaps, Scores
from ovparts_lib.workbook.pictures import WORDS_WITH_ATTENTION, chosen_images, largest_classes

PartMaps = Mapping[str, pd.DataFrame]  # by image


def measure_attention(model: nn.Module, dataset: Any, count: int, threshold: float) -> pd.DataFrame:
    """Overlap and strength in the decoder's attention, per part, over test images.

    Args:
        model: a system whose decoder's attention can be kept.
        dataset: the test images.
        count: how many of them.
        threshold: see :func:`ovparts_lib.inspection.attention_statistics`.

    Returns:
        See :func:`ovparts_lib.inspection.attention_by_class`; empty if no image has a part as large as a patch.
    """
    options = {"layer": _layer(model), "threshold": threshold}
    found = _with_attention(model, dataset, count)
    tables = [inspection.attention_statistics(*seen, dataset.vocabulary, **options) for _, seen in found]
    return inspection.attention_by_class(tables)


def attention_of_parts(model: nn.Module, dataset: Any, count: int) -> dict[str, pd.DataFrame]:
    """What the patches of each labelled part attend to, for its own, its generic part's and its object's query.

    Args:
        model: a system whose decoder's attention can be kept.
        dataset: the test images.
        count: how many of them.

    Returns:
        :func:`ovparts_lib.inspection.part_attention_table` by image; empty for one without a part as large as a patch.
    """
    return {
        image_id: inspection.part_attention_table(*seen, dataset.vocabulary, layer=_layer(model))
        for image_id, seen in _with_attention(model, dataset, count)
    }


def part_attention_panels(dataset: Any, count: int, maps: Mapping[str, PartMaps]) -> Iterator[Panel]:
    """The maps of :func:`attention_of_parts`, those of several moments or runs side by side.

    Args:
        dataset: the test images.
        count: how many were asked for.
        maps: by moment or run, such as ``{"before": …, "after": …}``; empty ones are left out.
    """
    given = {key: tables for key, tables in maps.items() if tables}
    for index in chosen_images(dataset, count):
        sample = dataset[index]
        tables = {key: images[sample.image_id] for key, images in given.items() if sample.image_id in images}
        name = f"part_attention_{'_'.join(given).replace(' ', '_')}_{sample.image_id}"
        title = f"Attention of parts, {' and '.join(given)}: {sample.image_id}"
        yield inspection.part_attention(sample.image, tables, name, title)


def attention_change(before: pd.DataFrame, after: pd.DataFrame, dataset: Any) -> Iterator[Panel]:
    """What training did to overlap and strength: each part, and means over the parts of seen and of unseen objects.

    A measure's means are over the parts that have it at both moments.

    Args:
        before: of :func:`measure_attention`.
        after: the same of the trained system.
        dataset: the test images.
    """
    title = "Parts in the decoder's attention, before and after training"
    if before.empty or after.empty:
        yield Panel("attention_change", title=title, caption="not measured at both moments")
        return
    unseen = dataset.vocabulary.unseen_objects
    change = inspection.attention_changes(before, after)
    change.insert(2, "group", np.where(change["object"].isin(unseen), "unseen", "seen"))
    tables = {"before": before, "after": after}
    yield replace(inspection.attention_comparison(tables, "attention_change", title, unseen=unseen), table=change)
    values = change.drop(columns=["object", "part", "images"])
    for measure in CHANGING:
        columns = [f"{measure}_{which}" for which in ("before", "after", "difference")]
        values.loc[values[columns].isna().any(axis=1), columns] = np.nan
    groups = values.groupby("group", sort=False)
    means = groups.mean()
    means.insert(0, "parts", groups.size())
    yield Panel("attention_means", table=means.reset_index(), title="Attention of parts, means over classes")


def attention_beside(
    folder: str | None, dataset: Any, measured: pd.DataFrame, maps: PartMaps, *, images: int, threshold: float
) -> Iterator[Panel]:
    """The attention of another finished run beside this one's: on the same images, of the same queries.

    Args:
        folder: of the other run; None shows nothing.
        dataset: the test images.
        measured: what :func:`measure_attention` gave of this run.
        maps: what :func:`attention_of_parts` gave of this run.
        images: how many :func:`measure_attention` was given.
        threshold: that it was given.
    """
    if folder is None or measured.empty:
        yield Panel("attention_beside", title="Attention beside another run's", caption="no run is named")
        return
    model, _ = load_system(resolve_path(folder))
    found = {"other run": attention_of_parts(model, dataset, len(maps)), "this run": maps}
    yield from part_attention_panels(dataset, len(maps), found)
    tables = {"other run": measure_attention(model, dataset, images, threshold), "this run": measured}
    title = f"Parts in the decoder's attention: {resolve_path(folder).name} and this run"
    panel = inspection.attention_comparison(tables, "attention_beside", title, unseen=dataset.vocabulary.unseen_objects)
    yield panel
    means = panel.table.groupby(["run", "group"], sort=False)[list(CHANGING)].mean().reset_index()
    yield Panel("attention_beside_means", table=means, title=f"{title}, means over classes")


def composition_panels(model: nn.Module, dataset: Any, count: int) -> Iterator[Panel]:
    """The object's, the generic part's and the object-specific part's own scores, for the largest parts of an image."""
    vocabulary = dataset.vocabulary
    for index in chosen_images(dataset, count):
        sample = dataset[index]
        parts = largest_classes(sample.part_map, vocabulary)[:WORDS_WITH_ATTENTION]
        if parts:
            scores, found = model.inspect([sample.image], vocabulary, class_ids=parts)[0]
            generic = found["generic_parts"]
            yield inspection.composition(sample.image, scores, generic, sample.part_map, vocabulary, sample.image_id)


def _layer(model: nn.Module) -> int | None:
    """The layer whose attention a system controls; None, which stands for the last, for systems that control none."""
    return getattr(model, "attention_layer", None)


def _with_attention(
    model: nn.Module, dataset: Any, count: int
) -> Iterator[tuple[str, tuple[Scores, AttentionMaps, Tensor]]]:
    """Test images that show a part: name; scores of the labelled parts, the decoder's attention, and the part map."""
    model.eval()
    for index in chosen_images(dataset, count):
        sample = dataset[index]
        parts = sorted(largest_classes(sample.part_map, dataset.vocabulary))
        if parts:
            scores, maps = model.inspect([sample.image], dataset.vocabulary, class_ids=parts, background=False)[0]
            yield sample.image_id, (scores, maps["attention"], sample.part_map)

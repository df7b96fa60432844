"""Attention statistics and figures of a notebook on pictures that have few labels, or none."""

import pandas as pd
import pytest
import torch

from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.systems.partclipseg.model import Partclipseg
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook import (
    attention_beside,
    attention_of_parts,
    composition_panels,
    measure_attention,
    part_attention_panels,
)
from tests.systems.tiny import TINY, random_image

WORDS = PartVocabulary("toy", ("dog's tail", "dog's head"), ("dog",))


class Pictures(list):
    """Samples in memory in place of an EvaluationDataset."""

    vocabulary = WORDS

    def object_ids(self, index):
        return (0,)


def sample(image_id, labelled):
    """A picture whose dog's head is as large as said; a patch of the model is 10 pixels."""
    part_map = torch.full((60, 60), WORDS.ignore_label)
    part_map[31 : 31 + labelled, 31 : 31 + labelled] = 1
    return EvaluationSample(random_image(60, 60), part_map, torch.zeros(60, 60, dtype=torch.int64), (), image_id)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Partclipseg(TINY)


def test_pictures_without_a_part_as_large_as_a_patch_are_passed_over(model):
    pictures = Pictures([sample("none", 0), sample("speck", 2), sample("head", 20)])
    table = measure_attention(model, pictures, 8, 0.3)
    assert list(table["part"]) == ["dog's head"]
    assert list(table["images"]) == [1]
    maps = attention_of_parts(model, pictures, 8)
    assert {name: table.empty for name, table in maps.items()} == {"speck": True, "head": False}
    assert maps["head"].groupby("query")["asking"].sum().eq(4).all()
    panels = {panel.name: panel for panel in part_attention_panels(pictures, 8, {"after": maps})}
    assert panels["part_attention_after_head"].figure is not None
    for name in ("none", "speck"):
        panel = panels[f"part_attention_after_{name}"]
        assert panel.figure is None and panel.caption == "no part as large as a patch"
    names = [panel.name for panel in composition_panels(model, pictures, 8)]
    assert names == ["composition_speck", "composition_head"]


def test_nothing_is_measured_where_nothing_is_labelled(model):
    assert measure_attention(model, Pictures([sample("none", 0)]), 8, 0.3).empty


def test_another_runs_attention_stands_beside(model, tmp_path):
    """Beside itself a run is the same; beside another it is not; and without one nothing is shown."""
    pictures = Pictures([sample("head", 20), sample("none", 0)])
    measured, maps = measure_attention(model, pictures, 8, 0.3), attention_of_parts(model, pictures, 8)

    def beside(folder):
        panels = attention_beside(folder, pictures, measured, maps, images=8, threshold=0.3)
        return {panel.name: panel for panel in panels}

    assert beside(None)["attention_beside"].figure is None

    theirs = tmp_path / "theirs.safetensors"
    SYSTEMS["partclipseg"].save(model, theirs)
    panels = beside(str(theirs))
    means = panels["attention_beside_means"].table
    assert list(means["run"]) == ["other run", "this run"]
    pd.testing.assert_series_equal(means.iloc[0, 2:], means.iloc[1, 2:], check_names=False)
    shown = panels["part_attention_other_run_this_run_head"].table
    other, mine = (part.drop(columns="stage") for _, part in shown.groupby("stage", sort=False))
    pd.testing.assert_frame_equal(other.reset_index(drop=True), mine.reset_index(drop=True), rtol=1e-4)

    with torch.no_grad():
        model.decoder.layers[-1].attention.in_proj_weight.mul_(9)
    SYSTEMS["partclipseg"].save(model, theirs)
    assert beside(str(theirs))["attention_beside_means"].table["strength"].nunique() == 2

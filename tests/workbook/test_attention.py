"""Attention statistics and figures of a notebook on pictures that have few labels, or none."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from ovparts_lib.data import EvaluationSample
from ovparts_lib.systems.partclipseg.model import Partclipseg
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook import attention_beside, composition_figures, measure_attention, part_attention_figures
from tests.systems.tiny import TINY, random_image

WORDS = PartVocabulary("toy", ("dog's tail", "dog's head"), ("dog",))
PARAMETERS = SimpleNamespace(iterations=3, statistics_images=8, attention_images=8, attention_threshold=0.3)


class Pictures(list):
    """Samples in memory in place of an EvaluationDataset."""

    vocabulary = WORDS

    def object_ids(self, index):
        return (0,)


class Shown:
    """Keeps in memory what a notebook shows."""

    def __init__(self, folder):
        self.run = SimpleNamespace(tables=folder)
        self.figures, self.tables = {}, {}

    def figure(self, figure, name, *, title, caption, data):
        self.figures[name] = data

    def table(self, frame, name, *, title):
        self.tables[name] = frame
        return frame


def sample(image_id, labelled):
    """A picture whose dog's head is as large as said; a patch of the model is 10 pixels."""
    part_map = torch.full((60, 60), WORDS.ignore_label)
    part_map[31 : 31 + labelled, 31 : 31 + labelled] = 1
    return EvaluationSample(random_image(60, 60), part_map, torch.zeros(60, 60, dtype=torch.int64), (), image_id)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Partclipseg(TINY)


def test_pictures_without_a_part_as_large_as_a_patch_are_passed_over(model, tmp_path, capsys):
    pictures = Pictures([sample("none", 0), sample("speck", 2), sample("head", 20)])
    data, output = SimpleNamespace(of_parts=True, evaluation=pictures), Shown(tmp_path)
    table = measure_attention(model, data, PARAMETERS, output, "after")
    assert list(table["part"]) == ["dog's head"]
    assert list(table["images"]) == [1]
    maps = part_attention_figures(model, data, PARAMETERS, output, "after")
    assert list(maps) == ["head"]
    assert list(output.figures) == ["part_attention_after_head"]
    assert maps["head"].groupby("query")["asking"].sum().eq(4).all()
    composition_figures(model, data, PARAMETERS, output)
    assert [name for name in output.figures if name.startswith("composition")] == [
        "composition_speck",
        "composition_head",
    ]
    said = capsys.readouterr().out
    assert "none has no part as large as a patch" in said and "speck has no part as large as a patch" in said


def test_nothing_is_measured_where_nothing_is_labelled(model, tmp_path, capsys):
    data, output = SimpleNamespace(of_parts=True, evaluation=Pictures([sample("none", 0)])), Shown(tmp_path)
    assert measure_attention(model, data, PARAMETERS, output, "after").equals(pd.DataFrame())
    assert not output.tables
    assert "attention is not measured" in capsys.readouterr().out


def test_another_runs_attention_stands_beside(model, tmp_path):
    """Beside itself a run is the same; beside another it is not; and without one nothing is shown."""
    data, output = (
        SimpleNamespace(of_parts=True, evaluation=Pictures([sample("head", 20), sample("none", 0)])),
        Shown(tmp_path),
    )
    params = SimpleNamespace(**vars(PARAMETERS), device="cpu", run="mine", attention_beside=None)
    measured = measure_attention(model, data, params, output, "after")
    maps = part_attention_figures(model, data, params, output, "after")
    assert attention_beside(data, params, output, measured, maps).empty

    SYSTEMS["partclipseg"].save(model, tmp_path / "theirs" / "weights.safetensors")
    params.attention_beside = str(tmp_path / "theirs" / "weights.safetensors")
    means = attention_beside(data, params, output, measured, maps)
    assert list(means["run"]) == ["other run", "this run"]
    assert list(means["name"]) == ["weights.safetensors", "mine"]
    pd.testing.assert_series_equal(means.iloc[0, 2:], means.iloc[1, 2:], check_names=False)
    shown = output.figures["part_attention_beside_head"]
    theirs, mine = (part.drop(columns="stage") for _, part in shown.groupby("stage", sort=False))
    pd.testing.assert_frame_equal(theirs.reset_index(drop=True), mine.reset_index(drop=True), rtol=1e-4)

    with torch.no_grad():
        model.decoder.layers[-1].attention.in_proj_weight.mul_(9)
    SYSTEMS["partclipseg"].save(model, tmp_path / "theirs" / "weights.safetensors")
    means = attention_beside(data, params, output, measured, maps)
    assert means["strength"].nunique() == 2

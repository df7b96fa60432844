"""Attention before and after training as a notebook shows it, on a PartCLIPSeg of a few thousand weights."""

from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from ovparts_lib import workbook
from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.inspection import attention_statistics
from ovparts_lib.vocabularies import PartVocabulary
from tests.systems.partclipseg.test_model import VOCABULARY, tiny_partclipseg
from tests.systems.tiny import random_image

mpl.use("Agg")
WHEN = ("before", "after", "difference")
WORDS = PartVocabulary("toy", VOCABULARY.parts, VOCABULARY.objects, {"bird"}, VOCABULARY.ignore_label)


class Pictures:
    """A dog, and a dog with a bird; the last picture's only part is smaller than a patch."""

    vocabulary = WORDS

    def __len__(self):
        return 3

    def object_ids(self, index):
        return ((1,), (1, 3), (2,))[index]

    def __getitem__(self, index):
        parts = torch.full((60, 80), 255)
        if index < 2:
            parts[10:40, 5:20], parts[10:40, 20:45] = 0, 1
        if index == 1:
            parts[30:60, 50:75] = 3
        if index == 2:
            parts[0, 0] = 2
        return EvaluationSample(random_image(60, 80, index), parts, parts, (), f"picture_{index}")


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr("ovparts_lib.workbook.output.display", lambda figure: None)
    run = SimpleNamespace(path=tmp_path, figures=tmp_path / "figures", tables=tmp_path / "tables")
    for folder in (run.figures, run.tables):
        folder.mkdir()
    return workbook.RunOutput(run)


@pytest.fixture
def params():
    return SimpleNamespace(iterations=5, attention_images=3, statistics_images=3, attention_threshold=0.3)


DATA = SimpleNamespace(of_parts=True, evaluation=Pictures())


def asked_by(asking, weights):
    """What the asking patches attend to, mean over them and over heads."""
    return weights.mean(0)[1:, 1:][torch.tensor(asking.to_numpy(bool))].mean(0)


def test_pictures_of_both_moments_are_kept_with_their_maps(output, params, capsys):
    before, after = tiny_partclipseg(0), tiny_partclipseg(1)
    maps = workbook.part_attention_figures(before, DATA, params, output, stage="before")
    again = workbook.part_attention_figures(after, DATA, params, output, stage="after", before=maps)
    assert set(maps) == set(again) == {"picture_0", "picture_1"}
    assert "picture_2 has no part as large as a patch" in capsys.readouterr().out
    for stage in ("before", "after"):
        for name in maps:
            assert (output.run.figures / f"part_attention_{stage}_{name}.png").stat().st_size > 0
    table = pd.read_csv(output.run.figures / "part_attention_after_picture_1.csv")
    assert list(table["stage"].unique()) == ["before", "after"]
    sides = [side.drop(columns="stage").reset_index(drop=True) for _, side in table.groupby("stage", sort=False)]
    keys = ["part", "query", "row", "column", "asking"]
    assert sides[0][keys].equals(sides[1][keys])  # the same parts and queries of the same picture
    assert {"both queries", "part query “head”", "object query “bird”"} <= set(table["query"])
    for side, model in zip(sides, (before, after), strict=True):
        sample = DATA.evaluation[1]
        _, found = model.inspect([sample.image], WORDS, class_ids=[0], background=False)[0]
        attention = found["attention"]
        own = side[(side["part"] == "dog's tail") & (side["query"] == "both queries")]
        np.testing.assert_allclose(own["attention"], asked_by(own["asking"], attention.decoder[2][0]), rtol=1e-5)


def test_overlap_and_strength_stand_side_by_side_with_their_difference(output, params):
    stages = {
        stage: workbook.measure_attention(tiny_partclipseg(seed), DATA, params, output, stage=stage)
        for seed, stage in enumerate(("before", "after"))
    }
    change = workbook.attention_change(stages["before"], stages["after"], DATA, output)
    group = {"bird's head": "unseen", "dog's tail": "seen", "dog's head": "seen"}
    assert dict(zip(change["part"], change["group"], strict=True)) == group
    for measure in ("object_overlap", "shared", "strength"):
        np.testing.assert_allclose(
            change[f"{measure}_difference"], stages["after"][measure] - stages["before"][measure], atol=1e-12
        )
    for kept in ("tables/attention_change.csv", "figures/attention_change.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(output.path / kept), change, check_dtype=False)
    means = workbook.attention_means(change, output).set_index("group")
    assert dict(means["parts"]) == {"seen": 2, "unseen": 1}
    assert means.loc["seen", "strength_difference"] == pytest.approx(
        change[change["group"] == "seen"]["strength_difference"].mean()
    )


def test_means_are_over_parts_measured_at_both_moments(output):
    nothing = dict.fromkeys((f"{m}_{w}" for m in ("object_overlap", "strength", "on_part") for w in WHEN), 0.5)
    change = pd.DataFrame(
        {"object": "dog", "part": ["a", "b"], "group": "seen", "images": 1}
        | nothing
        | {"shared_before": [0.2, 0.9], "shared_after": [0.4, np.nan], "shared_difference": [0.2, np.nan]}
    )
    means = workbook.attention_means(change, output).iloc[0]
    assert (means["shared_before"], means["shared_after"], means["shared_difference"]) == (0.2, 0.4, 0.2)
    assert means["strength_before"] == 0.5


@pytest.mark.parametrize("layer", [0, 1])
def test_what_is_measured_and_shown_is_the_layer_that_is_controlled(output, params, layer):
    model = tiny_partclipseg(attention_layer=layer)
    params.attention_images = params.statistics_images = 1
    measured = workbook.measure_attention(model, DATA, params, output, stage="after")
    sample = DATA.evaluation[1]  # one of an unseen object comes first
    scores, found = model.inspect([sample.image], WORDS, class_ids=[0, 1, 3], background=False)[0]
    attention = found["attention"]
    own, last = (
        attention_statistics(scores, attention, sample.part_map, WORDS, layer=which) for which in (layer, None)
    )
    np.testing.assert_allclose(measured["strength"], own["strength"], rtol=1e-6)
    assert not np.allclose(own["strength"], last["strength"], rtol=1e-3)
    maps = workbook.part_attention_figures(model, DATA, params, output, stage="after")["picture_1"]
    shown = maps[(maps["part"] == "bird's head") & (maps["query"] == "both queries")]
    expected = asked_by(shown["asking"], attention.decoder[layer][2])
    np.testing.assert_allclose(shown["attention"], expected, rtol=1e-5)


def test_there_is_no_before_where_nothing_trains(output, params):
    params.iterations = 0
    model = tiny_partclipseg()
    assert workbook.part_attention_figures(model, DATA, params, output, stage="before") == {}
    assert workbook.measure_attention(model, DATA, params, output, stage="before").empty
    after = workbook.measure_attention(model, DATA, params, output, stage="after")
    change = workbook.attention_change(pd.DataFrame(), after, DATA, output)
    assert change.empty
    assert workbook.attention_means(change, output).empty
    maps = workbook.part_attention_figures(model, DATA, params, output, stage="after", before={})
    assert set(pd.read_csv(output.run.figures / "part_attention_after_picture_0.csv")["stage"]) == {"after"}
    assert set(maps) == {"picture_0", "picture_1"}


def test_what_parts_are_composed_of_is_kept_with_its_numbers(output, params):
    model = tiny_partclipseg()
    workbook.composition_figures(model, DATA, params, output)
    assert (output.run.figures / "composition_picture_1.png").stat().st_size > 0
    table = pd.read_csv(output.run.figures / "composition_picture_1.csv")
    assert list(table["part"].unique()) == ["dog's head", "bird's head", "dog's tail"]  # the largest first
    sample = DATA.evaluation[1]
    scores, found = model.inspect([sample.image], WORDS)[0]
    dog, head = scores.objects.logits[2].sigmoid(), found["generic_parts"].logits[1].sigmoid()
    of_part = table[table["part"] == "dog's head"].set_index("map")["mean"]
    expected = [dog.mean(), head.mean(), (dog * head).mean(), scores.logits[1].sigmoid().mean()]
    np.testing.assert_allclose(of_part, [float(one) for one in expected], rtol=1e-5)

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


PICTURES = Pictures()


def asked_by(asking, weights):
    """What the asking patches attend to, mean over them and over heads."""
    return weights.mean(0)[1:, 1:][torch.tensor(asking.to_numpy(bool))].mean(0)


def test_pictures_of_both_moments_are_kept_with_their_maps(output, capsys):
    models = {"before": tiny_partclipseg(0), "after": tiny_partclipseg(1)}
    maps = {stage: workbook.attention_of_parts(model, PICTURES, 3) for stage, model in models.items()}
    output.show(workbook.part_attention_panels(PICTURES, 3, maps))
    assert "picture_2: no part as large as a patch" in capsys.readouterr().out
    for picture in ("picture_0", "picture_1"):
        assert (output.run.figures / f"part_attention_before_after_{picture}.png").stat().st_size > 0
    table = pd.read_csv(output.run.figures / "part_attention_before_after_picture_1.csv")
    assert list(table["stage"].unique()) == ["before", "after"]
    sides = [side.drop(columns="stage").reset_index(drop=True) for _, side in table.groupby("stage", sort=False)]
    keys = ["part", "query", "row", "column", "asking"]
    assert sides[0][keys].equals(sides[1][keys])  # the same parts and queries of the same picture
    assert {"both queries", "part query “head”", "object query “bird”"} <= set(table["query"])
    for side, model in zip(sides, models.values(), strict=True):
        sample = PICTURES[1]
        _, found = model.inspect([sample.image], WORDS, class_ids=[0], background=False)[0]
        attention = found["attention"]
        own = side[(side["part"] == "dog's tail") & (side["query"] == "both queries")]
        np.testing.assert_allclose(own["attention"], asked_by(own["asking"], attention.decoder[2][0]), rtol=1e-5)


def test_overlap_and_strength_stand_side_by_side_with_their_difference(output):
    before, after = (workbook.measure_attention(tiny_partclipseg(seed), PICTURES, 3, 0.3) for seed in (0, 1))
    output.show(workbook.attention_change(before, after, PICTURES))
    change = pd.read_csv(output.run.figures / "attention_change.csv")
    group = {"bird's head": "unseen", "dog's tail": "seen", "dog's head": "seen"}
    assert dict(zip(change["part"], change["group"], strict=True)) == group
    for measure in ("object_overlap", "shared", "strength"):
        np.testing.assert_allclose(change[f"{measure}_difference"], after[measure] - before[measure], atol=1e-12)
    means = pd.read_csv(output.run.tables / "attention_means.csv").set_index("group")
    assert dict(means["parts"]) == {"seen": 2, "unseen": 1}
    assert means.loc["seen", "strength_difference"] == pytest.approx(
        change[change["group"] == "seen"]["strength_difference"].mean()
    )


def test_means_are_over_parts_measured_at_both_moments():
    before = pd.DataFrame({"object": "dog", "part": ["dog's tail", "dog's head"], "images": 1, "shared": [0.2, 0.9]})
    before = before.assign(object_overlap=0.5, strength=0.5, on_part=0.5)
    after = before.assign(shared=[0.4, np.nan])
    means = list(workbook.attention_change(before, after, PICTURES))[-1].table.iloc[0]
    assert (means["shared_before"], means["shared_after"], means["shared_difference"]) == (0.2, 0.4, 0.2)
    assert means["strength_before"] == 0.5


@pytest.mark.parametrize("layer", [0, 1])
def test_what_is_measured_and_shown_is_the_layer_that_is_controlled(layer):
    model = tiny_partclipseg(attention_layer=layer)
    measured = workbook.measure_attention(model, PICTURES, 1, 0.3)
    sample = PICTURES[1]  # one of an unseen object comes first
    scores, found = model.inspect([sample.image], WORDS, class_ids=[0, 1, 3], background=False)[0]
    attention = found["attention"]
    own, last = (
        attention_statistics(scores, attention, sample.part_map, WORDS, layer=which) for which in (layer, None)
    )
    np.testing.assert_allclose(measured["strength"], own["strength"], rtol=1e-6)
    assert not np.allclose(own["strength"], last["strength"], rtol=1e-3)
    maps = workbook.attention_of_parts(model, PICTURES, 1)["picture_1"]
    shown = maps[(maps["part"] == "bird's head") & (maps["query"] == "both queries")]
    expected = asked_by(shown["asking"], attention.decoder[layer][2])
    np.testing.assert_allclose(shown["attention"], expected, rtol=1e-5)


def test_there_is_no_before_where_nothing_trains(capsys):
    model = tiny_partclipseg()
    assert workbook.measure_attention(model, PICTURES, 0, 0.3).empty
    assert workbook.attention_of_parts(model, PICTURES, 0) == {}
    after = workbook.measure_attention(model, PICTURES, 3, 0.3)
    (panel,) = workbook.attention_change(pd.DataFrame(), after, PICTURES)
    assert panel.figure is None and panel.caption == "not measured at both moments"
    maps = {"before": {}, "after": workbook.attention_of_parts(model, PICTURES, 3)}
    panels = {panel.name: panel for panel in workbook.part_attention_panels(PICTURES, 3, maps)}
    assert set(panels["part_attention_after_picture_0"].table["stage"]) == {"after"}


def test_what_parts_are_composed_of_is_kept_with_its_numbers(output):
    model = tiny_partclipseg()
    output.show(workbook.composition_panels(model, PICTURES, 3))
    assert (output.run.figures / "composition_picture_1.png").stat().st_size > 0
    table = pd.read_csv(output.run.figures / "composition_picture_1.csv")
    assert list(table["part"].unique()) == ["dog's head", "bird's head", "dog's tail"]  # the largest first
    sample = PICTURES[1]
    scores, found = model.inspect([sample.image], WORDS)[0]
    dog, head = scores.objects.logits[2].sigmoid(), found["generic_parts"].logits[1].sigmoid()
    of_part = table[table["part"] == "dog's head"].set_index("map")["mean"]
    expected = [dog.mean(), head.mean(), (dog * head).mean(), scores.logits[1].sigmoid().mean()]
    np.testing.assert_allclose(of_part, [float(one) for one in expected], rtol=1e-5)

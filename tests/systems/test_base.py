"""What all systems share: which queries a training step decodes, and which vocabularies a system reads."""

import pytest
import torch

from ovparts_lib.systems.base import chosen_queries
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary
from tests.systems.catseg.tiny import tiny_catseg
from tests.systems.partcatseg.tiny import tiny_partcatseg
from tests.systems.partclipseg.test_model import tiny_partclipseg
from tests.systems.tiny import random_image, tiny_clipseg


def test_present_parts_are_always_chosen_and_the_background_comes_last():
    targets = torch.tensor([[[3, 3], [9, 1]]])
    for seed in range(20):
        torch.manual_seed(seed)
        chosen = chosen_queries(targets, count=9, number=5)
        assert len(chosen) == 6
        assert chosen[-1] == 9
        assert {1, 3} <= set(chosen.tolist())
        assert torch.equal(chosen, chosen.unique())
        # What searchsorted does to targets is undone by looking the channels up again.
        assert torch.equal(chosen[torch.searchsorted(chosen, targets)], targets)


def test_more_parts_than_wanted_are_all_kept():
    assert chosen_queries(torch.arange(7), count=9, number=2).tolist() == [0, 1, 2, 3, 4, 5, 6, 9]


def test_every_absent_part_is_drawn_sooner_or_later():
    torch.manual_seed(0)
    drawn = {part for _ in range(200) for part in chosen_queries(torch.tensor([0]), count=6, number=2).tolist()}
    assert drawn == set(range(7))


LIST = Vocabulary("list", ("wall", "altar, communion table, lord's table", "window "))


@pytest.mark.parametrize("model", [tiny_clipseg, tiny_catseg])
def test_whole_classes_are_words_like_any_other(model):
    model, image = model().eval(), random_image(40, 60)
    (scores,) = model.predict([image], LIST)
    assert scores.class_ids == (0, 1, 2)
    (alone,) = model.predict([image], LIST, class_ids=[1], background=False)
    torch.testing.assert_close(alone.logits, scores.logits[[1]], atol=1e-5, rtol=1e-4)
    ((_, maps),) = model.inspect([image], LIST, class_ids=[1])
    assert maps["attention"].queries == LIST.classes[1:2]
    batch = {"images": [image], "part_maps": [torch.randint(0, 3, (40, 60))], "vocabulary": LIST}
    assert torch.isfinite(model.train().loss(batch)["loss_sem_seg"])


@pytest.mark.parametrize("model", [tiny_partclipseg, tiny_partcatseg])
def test_a_system_that_composes_parts_says_that_it_needs_them(model):
    model, image = model(), random_image(40, 60)
    maps = [torch.zeros(40, 60, dtype=torch.int64)]
    with pytest.raises(ValueError, match="composes objects and parts, so it needs a PartVocabulary; 'list' is a list"):
        model.predict([image], LIST)
    with pytest.raises(ValueError, match="needs a PartVocabulary"):
        model.loss({"images": [image], "part_maps": maps, "object_maps": maps, "vocabulary": LIST})


def test_words_that_a_system_reads_alike_are_refused():
    image = [random_image(40, 60)]
    words = PartVocabulary.from_words(["car's wheel", "car wheel"])
    with pytest.raises(ValueError, match="'car wheel' are one to the text tower, which reads “car wheel” for both"):
        tiny_clipseg().predict(image, words)
    assert len(tiny_catseg().predict(image, words)[0].logits) == 2
    with pytest.raises(ValueError, match="'dog' and 'Dog' are one to the text tower"):
        tiny_catseg().predict(image, PartVocabulary.from_words(["dog", "Dog"]))
    # Embeddings of synonyms are averaged, whatever their order, by the systems that take them for such.
    synonyms = PartVocabulary.from_words(["rug, mat", "Mat, rug"])
    with pytest.raises(ValueError, match="'rug, mat' and 'Mat, rug' are one to the text tower"):
        tiny_catseg().predict(image, synonyms)
    assert len(tiny_clipseg().predict(image, synonyms)[0].logits) == 2


def test_regions_are_for_systems_that_need_them():
    with pytest.raises(ValueError, match="Clipseg takes no regions"):
        tiny_clipseg().predict([random_image(40, 60)], LIST, regions=[[]])

"""Every setting on the miniature in every layout: readers, few shots, and training on one dataset for another."""

import numpy as np
import pytest
import torch

from ovparts_lib.data.dataset import EvaluationDataset, TrainingDataset, collate_training
from ovparts_lib.data.few_shot import draw_shots
from ovparts_lib.data.registry import open_reader, verify_dataset
from ovparts_lib.miniature.layout import LAYOUTS, render_miniature
from ovparts_lib.systems.clipseg.model import MINIATURE_QUERY, Clipseg
from ovparts_lib.vocabularies import PartVocabulary

ADE, PASCAL = "ade20k_part_234", "pascal_part_116"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    for name in LAYOUTS:
        render_miniature(folder / name, name, train=24, val=8, seed=6, progress=False)
    return {name: open_reader(name, folder / name) for name in LAYOUTS}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Clipseg(MINIATURE_QUERY)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_every_split_of_every_miniature_can_be_served(worlds, dataset):
    reader = worlds[dataset]
    for split in reader.settings:
        of_parts = isinstance(reader.vocabulary, PartVocabulary)
        training = TrainingDataset(reader, split)
        sample = training[len(training) - 1]
        classes, ignore = len(training.vocabulary.classes), training.vocabulary.ignore_label
        values = set(np.unique(sample["part_map"]).tolist())
        assert values - {ignore} and max(values - {ignore}) < classes
        if not of_parts:
            assert set(np.unique(EvaluationDataset(reader, split)[0].part_map)) - {reader.vocabulary.ignore_label}
        elif reader.split(split).conditioned:
            evaluation = EvaluationDataset(reader, split)
            assert evaluation[0].regions
    assert verify_dataset(dataset, reader.root).ok


def test_ade_splits_follow_a_drawn_list(worlds):
    """Instances of the drawn images to train on; unseen ones of the other training images are tested on."""
    reader = worlds[ADE]
    drawn = draw_shots(reader, 2, seed=1)
    few = reader.using_shots(drawn.image_ids)
    assert {record.image_id for record in few.records("train_few_shot")} == set(drawn.image_ids)
    all_of_training = {r.image_id for r in reader.records("val_obj_condition")} - {
        r.image_id for r in reader.pairs("val")
    }
    tested = {record.image_id for record in few.records("val_few_shot")}
    assert all_of_training & set(drawn.image_ids) and not tested & set(drawn.image_ids)
    assert tested >= all_of_training - set(drawn.image_ids)
    bus = reader.vocabulary.object_id("bus")
    assert {record.object_id for record in few.records("val_few_shot") if record.image_id in all_of_training} == {bus}


@pytest.mark.parametrize(("source", "target"), [(ADE, PASCAL), (PASCAL, ADE), (ADE, "partimagenet_seg")])
def test_training_on_one_dataset_for_another(worlds, model, source, target):
    """The ignore label of the targets is that of the split they come from, whatever the test set's is."""
    training, evaluation = TrainingDataset(worlds[source], "train"), EvaluationDataset(worlds[target])
    batch = collate_training([training[0], training[1]])
    ignore = {PASCAL: 255, ADE: 65535}[source]
    assert batch["vocabulary"].ignore_label == ignore and any((m == ignore).any() for m in batch["part_maps"])
    loss = sum(model.loss(batch).values())
    assert torch.isfinite(loss)
    # Unlabelled pixels are background whatever their label is called: another name gives the same loss.
    renamed = worlds[source].vocabulary.seen
    other = 60000
    maps = [part_map.long().masked_fill(part_map == ignore, other) for part_map in batch["part_maps"]]
    vocabulary = type(renamed)(renamed.name, renamed.parts, renamed.objects, ignore_label=other)
    again = sum(model.loss(batch | {"part_maps": maps, "vocabulary": vocabulary}).values())
    torch.testing.assert_close(again, loss)
    sample = evaluation[0]
    part_ids = list(evaluation.vocabulary.parts_of(sample.object_ids[0]))
    with torch.no_grad():
        scores = model.predict([sample.image], evaluation.vocabulary, class_ids=part_ids)[0]
    assert len(scores.class_ids) == len(part_ids)
    present = set(sample.part_map.unique().tolist()) - {evaluation.vocabulary.ignore_label}
    assert present and max(present) < len(evaluation.vocabulary.parts)

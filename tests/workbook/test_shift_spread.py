"""How far SCAN's score depends on the seed of contextual shift."""

from dataclasses import replace

import pytest
import torch

from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.evaluation.protocols import protocol_named
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.sizes import MINIATURE_SCAN
from ovparts_lib.vocabularies import Vocabulary
from ovparts_lib.workbook import shift_spread
from tests.evaluation.recorded import read_matrix


class Pictures:
    """Test images of three classes."""

    vocabulary = Vocabulary("words", ("cat", "sky", "sea"))

    def __len__(self):
        return 3

    def __getitem__(self, number):
        if not 0 <= number < 3:
            raise IndexError(number)
        draw = torch.Generator().manual_seed(number)
        image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8, generator=draw)
        labels = torch.randint(0, 3, (64, 80), generator=draw)
        return EvaluationSample(image, labels, labels, (), f"picture {number}")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Scan(replace(MINIATURE_SCAN, queries=6), mask_threshold=0.5, shift_ratio=1.0, shift_seed=7).eval()


def test_each_seed_is_scored_and_the_models_own_comes_back(model):
    panel = shift_spread(model, Pictures(), 2, "recommended_objects", seeds=3)
    assert panel.table["seed"].tolist() == [0, 1, 2] and model.shift_seed == 7
    pictures = Pictures()
    for seed, found in zip(range(3), panel.table["mIoU"], strict=True):
        model.shift_seed = seed
        labels = torch.cat([pictures[number].part_map.flatten() for number in range(2)])
        predicted = torch.cat([predict(model, pictures[number]).flatten() for number in range(2)])
        matrix = torch.zeros(4, 4, dtype=torch.int64)
        matrix.index_put_((predicted, labels), torch.ones_like(labels), accumulate=True)
        read = read_matrix(protocol_named("recommended_objects"), matrix.numpy(), pictures.vocabulary, "pred_all")
        assert found == pytest.approx(read.summary["mIoU"])
    model.shift_seed = 7
    assert "on 2 test images, protocol recommended_objects" in panel.caption


def predict(model, sample):
    (scores,) = model.predict([sample.image], Pictures.vocabulary)
    return pred_all_map(scores)


@pytest.mark.parametrize(
    ("images", "changes", "reason"), [(0, {}, "not asked for"), (2, {"shift_ratio": 0.0}, "random")]
)
def test_without_images_or_without_shift_nothing_is_scored(model, monkeypatch, images, changes, reason):
    for name, value in changes.items():
        monkeypatch.setattr(model, name, value)
    monkeypatch.setattr(model, "predict", None)
    panel = shift_spread(model, Pictures(), images, "recommended_objects")
    assert not len(panel.table) and reason in panel.caption

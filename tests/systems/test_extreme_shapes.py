"""Pictures of extreme shapes through every system: scores of the picture's own size, and finite."""

import pytest
import torch

from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.systems.registry import SYSTEMS
from tests.systems.tiny import VOCABULARY, random_image

SHAPES = [(1, 3000), (3000, 1), (50, 3), (3, 50), (1, 1)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_picture_of_any_shape_is_scored(system):
    torch.manual_seed(0)
    model = SYSTEMS[system].build("miniature").eval()
    for shape in SHAPES:
        (scores,) = model.predict([random_image(*shape)], VOCABULARY)
        assert scores.image_size == shape
        assert scores.class_maps().isfinite().all()
        labels = pred_all_map(scores, vocabulary=VOCABULARY)
        assert tuple(labels.shape) == shape
        assert 0 <= labels.min() <= labels.max() <= len(VOCABULARY.parts)

"""Label maps travel as uint8 or int32; every system learns the same from them as from int64."""

import pytest
import torch

from ovparts_lib.systems.catseg.model import MINIATURE_COST, Catseg
from ovparts_lib.systems.clipseg.model import MINIATURE_QUERY, Clipseg
from ovparts_lib.systems.partcatseg.model import MINIATURE_PARTCATSEG, PartCatseg
from ovparts_lib.systems.partclipseg.model import Partclipseg
from ovparts_lib.vocabularies import load_vocabulary

MODELS = {
    "clipseg": lambda: Clipseg(MINIATURE_QUERY),
    "partclipseg": lambda: Partclipseg(MINIATURE_QUERY),
    "catseg": lambda: Catseg(MINIATURE_COST),
    "partcatseg": lambda: PartCatseg(MINIATURE_PARTCATSEG),
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_do_not_depend_on_the_type_of_the_labels(name):
    torch.manual_seed(0)
    model, vocabulary = MODELS[name](), load_vocabulary("pascal_part_116")
    part_map = torch.full((64, 64), vocabulary.ignore_label)
    part_map[:20, 8:40], part_map[30:50, 16:60] = 3, 70
    owners = torch.tensor([*vocabulary.part_to_object, *[vocabulary.ignore_label] * vocabulary.ignore_label])
    object_map = owners[part_map.clamp(max=len(owners) - 1)]
    losses = []
    for label_type in (torch.int64, torch.int32, torch.uint8):
        torch.manual_seed(1)
        batch = {
            "images": [torch.randint(256, (3, 64, 64), dtype=torch.uint8)],
            "part_maps": [part_map.to(label_type)],
            "object_maps": [object_map.to(label_type)],
            "vocabulary": vocabulary,
        }
        with torch.no_grad():
            losses.append({key: loss.item() for key, loss in model.loss(batch).items()})
    assert losses[0] == losses[1] == losses[2]

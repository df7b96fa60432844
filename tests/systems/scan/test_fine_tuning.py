"""Fine-tuning of the CLIP for crops on labelled masks, and the options of SCAN's runs."""

import copy
from dataclasses import replace

import pytest
import torch

from ovparts_lib.systems.scan import SYSTEM
from ovparts_lib.systems.scan.fine_tuning import FILE, adapt_clip, context_pair
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.options import PRESETS, ScanOptions
from ovparts_lib.systems.scan.sizes import MINIATURE_SCAN
from ovparts_lib.vocabularies import Vocabulary

WORDS = Vocabulary("words", ("cat", "sky"))


def sample(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((60, 80), 255, dtype=torch.uint8)
    labels[10:40, 20:50] = seed % 2
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8, generator=generator)
    return {"image": image, "part_map": labels, "vocabulary": WORDS}


def test_a_pair_is_a_labelled_mask_its_image_and_its_name():
    torch.manual_seed(0)
    pair = context_pair(sample(1), 64)
    assert pair["name"] == "sky"
    assert pair["pixels"].shape == pair["images"].shape == (3, 64, 64)
    assert pair["masks"].all()  # the mask fills its tight box
    unlabelled = sample(0) | {"part_map": torch.full((60, 80), 255, dtype=torch.uint8)}
    assert context_pair(unlabelled, 64) is None


def test_fine_tuning_moves_the_image_tower_for_crops_and_nothing_else(tmp_path):
    torch.manual_seed(0)
    model = Scan(replace(MINIATURE_SCAN, queries=3))
    before = copy.deepcopy(model.state_dict())
    data = [sample(number) for number in range(6)]
    settings = {"iterations": 3, "batch_size": 4, "learning_rate": 1e-3, "seed": 0}
    history = adapt_clip(model, data, tmp_path, **settings)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("clip.visual.") or name == "clip.logit_scale" for name in moved)
    assert history["step"].tolist() == [1, 2, 3] and (tmp_path / FILE).is_file()
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())
    torch.manual_seed(5)
    again = Scan(replace(MINIATURE_SCAN, queries=3))
    again.load_state_dict(before)
    assert adapt_clip(again, data, tmp_path, **settings).equals(history)


@pytest.mark.parametrize("size", list(PRESETS))
def test_published_settings_follow_from_size_and_test_set(size):
    for test, preset in PRESETS[size].items():
        options = ScanOptions(model_size=size, test_dataset=test, checkpoint="SCAN.pth")
        found = (options.mask_threshold, options.ensemble_weight, options.shift_ratio, options.second_normalisation)
        assert found == (
            preset.mask_threshold,
            preset.ensemble_weight,
            preset.shift_ratio,
            preset.second_normalisation,
        )
    parts = ScanOptions(model_size=size, dataset="pascal_part_116")
    assert (parts.mask_threshold, parts.ensemble_weight, parts.shift_ratio) == (0.4, 0.7, 0.15)
    assert parts.test_dataset is None and parts.learning_rate == 6e-5 and parts.points == 12544


def test_the_model_takes_what_the_options_say():
    options = ScanOptions(recipe="miniature", integration=False, shift_ratio=0.0, queries=5, points=64)
    model = SYSTEM.build(options.sized(SYSTEM.sizes[options.model_size]), **options.model_options())
    assert model.size.queries == 5 and not model.calibrates and model.losses.points == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 1000}, "warm-up must end before"),
        ({"fused_clip": "CS_CLIP.pt"}, "fused into a checkpoint"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ScanOptions(**changes)

"""Adaptation of CLIP from a training split to the file that is fused, on two pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ovparts_lib.systems.ovseg.fine_tuning import FILE, adapt_clip, crop_accuracy, training_pairs
from ovparts_lib.systems.ovseg.weights import fuse_clip
from ovparts_lib.vocabularies import Vocabulary
from tests.systems.ovseg.tiny import tiny_ovseg

WORDS = Vocabulary("toy", ("dog", "sky", "car"), frozenset(), 255)
TRAINED = Vocabulary("toy_seen", ("sky", "dog"), frozenset(), 255)  # cars are not trained


@pytest.fixture
def training(tmp_path):
    """Two pictures, dog over sky; the second shows a car, too."""
    draw, records = np.random.default_rng(0), []
    for number in range(2):
        labels = np.zeros((40, 60), np.uint8)
        labels[20:] = 1
        labels[:, 50:] = 2 if number else 255
        paths = [tmp_path / f"{number}.{ending}" for ending in ("jpg", "png")]
        Image.fromarray(draw.integers(0, 256, (40, 60, 3), np.uint8)).save(paths[0])
        Image.fromarray(labels).save(paths[1])
        records.append(SimpleNamespace(image_path=paths[0], part_path=paths[1], image_id=str(number)))
    reader = SimpleNamespace(vocabulary=WORDS, label_maps=lambda record: (np.asarray(Image.open(record.part_path)),))
    return SimpleNamespace(reader=reader, records=records, vocabulary=TRAINED)


def test_pairs_name_classes_of_the_training_vocabulary(training):
    model = tiny_ovseg().eval()
    labelled = list(training_pairs(model, training, "labels"))
    assert [pair.title for pair in labelled] == ["sky", "dog"] * 2
    assert [tuple(pair.crop.shape) for pair in labelled[:2]] == [(3, 20, 50), (3, 20, 50)]
    assert {pair.title for pair in training_pairs(model, training, "proposals")} <= {"sky", "dog"}


@pytest.mark.parametrize("ways", [("fine_tuning",), ("mask_prompts",), ("fine_tuning", "mask_prompts")])
def test_what_is_adapted_trains_and_what_is_kept_is_fused_into_another_model(training, tmp_path, ways):
    model, other = tiny_ovseg(mask_prompts=False).eval(), tiny_ovseg(mask_prompts=False).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    history = adapt_clip(
        model,
        training,
        tmp_path,
        rates=dict.fromkeys(ways, 1e-2),
        pairs="labels",
        iterations=3,
        batch_size=2,
        seed=0,
    )
    assert list(history["way"]) == [way for way in ways for _ in range(3)]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("clip.visual.") for name in changed) == ("fine_tuning" in ways)
    assert model.mask_prompts == ("mask_prompts" in ways)
    assert not [name for name in changed if not name.startswith(("clip.visual.", "clip.logit_scale", "mask_prompt"))]
    fuse_clip(other, tmp_path / FILE)
    assert other.mask_prompts == model.mask_prompts
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    ours, theirs = (each.predict([image], WORDS)[0].class_maps() for each in (model, other))
    torch.testing.assert_close(ours, theirs)


def test_too_few_pairs_are_said(training, tmp_path):
    with pytest.raises(ValueError, match=r"pairs.tsv has 4 pairs, fewer than the 8 of a step"):
        adapt_clip(
            tiny_ovseg(), training, tmp_path, rates={"fine_tuning": 1e-3}, pairs="labels", iterations=1, batch_size=8,
            seed=0,
        )  # fmt: skip


def test_annotated_masks_are_named_by_the_nearest_text():
    model = tiny_ovseg().eval()
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    labels = torch.full((40, 60), 255)
    labels[:20], labels[20:] = 2, 0
    masks = torch.stack([labels == 0, labels == 2])
    regions = model.encode_regions(image, masks)
    best = (regions.embeddings @ model.encode_classes(WORDS.classes)[:-1].T).argmax(1)
    found = crop_accuracy(model, [SimpleNamespace(image=image, label_map=labels)], WORDS.classes)
    assert found["masks"] == 2
    assert found["top1"] == pytest.approx(100 * (best == torch.tensor([0, 2])).float().mean().item())
    assert found["top5"] == 100

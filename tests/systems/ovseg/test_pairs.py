"""Pairs of masked crops and words: mining, files, transforms; and what is made of them."""

import math

import pytest
import torch

from ovparts_lib.models.clip.pair_crops import FILL, mask_by_colour
from ovparts_lib.systems.adapted_clip import (
    FINE_TUNING,
    MASK_PROMPT_TUNING,
    AdaptedClip,
    rate_factor,
)
from ovparts_lib.systems.ovseg.pairs import (
    PairDataset,
    labelled_pairs,
    mine_pairs,
    write_pairs,
)
from tests.systems.ovseg.tiny import TINY_OVSEG, tiny_ovseg
from tests.systems.tiny import random_image


def halves():
    image = random_image(40, 60)
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, :, :20], masks[1, 10:30, 40:] = True, True
    return image, masks  # the third mask is empty


def test_every_noun_takes_the_mask_that_clip_finds_nearest():
    model = tiny_ovseg().eval()
    image, masks = halves()
    pairs = mine_pairs(model, image, ["dog", "sky", "car"], masks=masks)
    regions = model.encode_regions(image, masks, prompts=False)
    similarity = regions.embeddings @ model.encode_classes(["dog", "sky", "car"])[:-1].T
    assert [pair.title for pair in pairs] == ["dog", "sky", "car"]
    for pair, column in zip(pairs, similarity.T, strict=True):
        left, top, right, bottom = regions.boxes[column.argmax()].tolist()
        assert pair.similarity == pytest.approx(column.max().item(), abs=1e-5)
        assert torch.equal(pair.crop, image[:, top:bottom, left:right])  # both masks fill their boxes
    assert mine_pairs(model, image, ["dog"], masks=masks[2:]) == []
    assert mine_pairs(model, image, []) == []
    proposals = mine_pairs(model, image, ["dog"])
    assert len(proposals) == 1 and proposals[0].crop.shape[1:] == proposals[0].mask.shape


def test_labels_give_a_pair_for_each_class():
    image, masks = halves()
    labels = torch.full((40, 60), 255)
    labels[masks[0]], labels[5:10, 5:10] = 1, 255
    (pair,) = labelled_pairs(image, labels, ("sky", "tree"))
    assert pair.title == "tree" and pair.mask.shape == (40, 20)
    assert pair.crop[:, 7, 7].tolist() == list(FILL) and not pair.mask[7, 7]
    assert torch.equal(pair.crop[:, 20], image[:, 20, :20])


@pytest.mark.parametrize("train", [True, False])
def test_crops_and_masks_survive_their_files(tmp_path, train):
    image, masks = halves()
    labels = torch.where(masks[0], 1, 255)
    labels[15:20, 5:10] = 255
    table = write_pairs(labelled_pairs(image, labels, ("sky", "tree")), tmp_path / "pairs")
    assert table.read_text().splitlines()[0] == "filepath\ttitle"
    stored, coloured = (PairDataset(table, 32, train=train, masks=masks) for masks in ("stored", "colour"))
    for dataset in (stored, coloured):
        sample = dataset[0]
        assert sample["captions"] == "tree" and sample["pixels"].shape == (3, 32, 32)
        assert sample["masks"].shape == (32, 32) and 0 < (~sample["masks"].bool()).sum() < 200
    assert torch.equal(mask_by_colour(torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)), torch.tensor([[False]]))
    with pytest.raises(ValueError, match="masks must be 'stored' or 'colour'"):
        PairDataset(table, masks="alpha")
    (tmp_path / "empty.tsv").write_text("filepath\tname\n")
    with pytest.raises(ValueError, match="columns filepath and title"):
        PairDataset(tmp_path / "empty.tsv")


def test_the_released_schedule():
    assert rate_factor(0, 17270) == 0.01 and rate_factor(99, 17270) == 1.0
    assert rate_factor(100 + 8585, 17270) == pytest.approx(0.5)
    assert rate_factor(17269, 17270) == pytest.approx(0, abs=1e-7)


def adapted(depth=2):
    torch.manual_seed(7)
    return AdaptedClip(tiny_ovseg().clip, TINY_OVSEG.clip, depth)


@pytest.mark.parametrize("kind", ["ft", "mpt"])
def test_adaptation_learns_its_pairs_and_leaves_the_rest_alone(kind):
    model = adapted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = model.set_trainable(FINE_TUNING if kind == "ft" else MASK_PROMPT_TUNING)
    masks = torch.zeros(4, 32, 32)
    for number in range(4):
        masks[number, 8 * number : 8 * number + 8] = 1
    batch = {"pixels": torch.randn(4, 3, 32, 32), "captions": ["dog", "car", "sky", "tree"]}
    batch["masks"] = masks if kind == "mpt" else None
    groups = model.parameter_groups(0.2)
    assert {group["weight_decay"] for group in groups} == ({0.2, 0.0} if kind == "ft" else {0.0})
    optimiser = torch.optim.AdamW(groups, lr=0.01 if kind == "ft" else 0.1)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model.loss(batch)["loss_contrastive"]
        loss.backward()
        optimiser.step()
        model.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= set(trained) and "clip.logit_scale" in changed
    with torch.no_grad():
        model.clip.logit_scale.fill_(9)
    model.after_step()
    assert model.clip.logit_scale.item() == pytest.approx(math.log(100))

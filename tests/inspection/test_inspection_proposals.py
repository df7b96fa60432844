"""Proposals: what the table says of masks that are drawn by hand."""

import pytest
import torch

from ovparts_lib.inspection import proposal_grid, proposal_table
from ovparts_lib.systems.proposals import ProposalMaps

CLASSES = ("dog's head", "dog's tail")


@pytest.fixture
def maps():
    """A sure mask of the upper half, a doubtful one of the left quarter, and one that is nowhere above one half."""
    masks = torch.zeros(3, 8, 8)
    masks[0, :4], masks[1, :, :2], masks[2] = 0.9, 0.6, 0.1
    scores = torch.tensor([[0.7, 0.2], [0.1, 0.8], [0.3, 0.2]])
    clip, valid = torch.tensor([[0.4, 0.6], [0.2, 0.8]]), torch.tensor([True, True, False])
    image, boxes = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.int64)
    return ProposalMaps(image, masks, scores, clip, valid, boxes, scores, CLASSES)


def test_masks_are_listed_by_what_they_count_and_named_by_both_stages(maps):
    truth = torch.full((8, 8), 255)
    truth[:4] = 0
    truth[4:, :2] = 1
    table = proposal_table(maps, truth, len(CLASSES))
    assert table["mask"].tolist() == [0, 1, 2]  # 0.9 x 0.7, 0.6 x 0.8, 0
    assert table["quality"].tolist() == pytest.approx([0.9, 0.6, 0.0])
    assert table["share"].tolist() == pytest.approx([50, 25, 0])
    assert table["stage1"].tolist() == ["dog's head", "dog's tail", "dog's head"]
    assert table["stage1_score"].tolist() == pytest.approx([0.7, 0.8, 0.3])
    assert table["clip"].tolist()[:2] == ["dog's tail", "dog's tail"] and table["clip"].isna().tolist()[2]
    assert table["nearest_part"].tolist()[:2] == ["dog's head", "dog's tail"]
    assert table["overlap"].tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_every_mask_has_a_panel_that_says_who_called_it_what(maps):
    figure = proposal_grid(maps, proposal_table(maps), columns=2)
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[0] == "stage 1: dog's head 0.70\nCLIP: dog's tail 0.60\nmask quality 0.90"
    assert titles[2] == "stage 1: dog's head 0.30\nmask quality 0.00"
    assert len(figure.axes) == 4

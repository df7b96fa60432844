"""What SIM and CS did, as a table and a figure."""

import pytest
import torch

from ovparts_lib.inspection import calibrated_proposals, calibration_table, changed_by_integration
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps


@pytest.fixture
def maps():
    """Three proposals, the second without a crop, and three classes; SIM turns the first from a cat to a dog."""
    masks = torch.zeros(3, 8, 12)
    masks[0, :6], masks[1, 6:, :2], masks[2, 6:, 2:] = 1.0, 0.1, 0.9
    before = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.8]])
    after = torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.8]])
    clip = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    valid, boxes = torch.tensor([True, False, True]), torch.tensor([[0, 0, 12, 6], [2, 6, 12, 8]])
    combined = torch.tensor([[0.1, 0.7, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.7]])
    image = torch.full((3, 8, 12), 99, dtype=torch.uint8)
    proposals = ProposalMaps(image, masks, after, clip, valid, boxes, combined, ("cat", "dog", "sky"))
    kept = torch.tensor([[True, True, False, False], [True, False, False, False]])
    shifted = {1: torch.tensor([[False, False, True, False], [False, True, False, True]])}
    return proposals, CalibrationMaps(before, after, kept, shifted, 2)


def test_the_table_says_each_step_of_each_proposal(maps):
    table = calibration_table(*maps).set_index(["proposal", "class"])
    assert list(table.index.unique("proposal")) == [0, 2, 1]  # those that score most first
    dog = table.loc[(0, "dog")]
    assert dog.tolist() == pytest.approx([0.3, 0.7, 0.8, 0.7])
    assert table.loc[(2, "sky"), "CLIP on the crop"] == pytest.approx(0.6)
    assert table.loc[1]["CLIP on the crop"].isna().all()  # without a crop CLIP says nothing
    assert changed_by_integration(maps[1]) == 1


def test_the_figure_has_a_row_per_proposal_and_counts_overwritten_tokens(maps):
    figure = calibrated_proposals(*maps)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 9
    assert "1 of 2 blank tokens overwritten a layer" in titles
    assert "2 of 3 blank tokens overwritten a layer" in titles
    assert "no crop" in titles

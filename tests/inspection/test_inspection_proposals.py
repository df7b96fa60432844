"""Proposals: what the table says of masks that are drawn by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from ovparts_lib.inspection import opinions, proposal_grid, proposal_table, search_heatmap
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps

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
    figure = proposal_grid(maps, proposal_table(maps), "p", "Proposals", "Masks.").figure
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[0] == "stage 1: dog's head 0.70\nCLIP: dog's tail 0.60\nmask quality 0.90"
    assert titles[2] == "stage 1: dog's head 0.30\nmask quality 0.00"
    assert len(figure.axes) == 3


# --- what was said of masks, and by whom ------------------------------------------------------------------------------


@pytest.fixture
def calibrated():
    """Three proposals, the second without a crop, and three classes; SIM turns the first from a cat to a dog."""
    masks = torch.zeros(3, 8, 12)
    masks[0, :6], masks[1, 6:, :2], masks[2, 6:, 2:] = 1.0, 0.1, 0.9
    masks[0, :, 6:] *= 0.45  # above the threshold of crops, below one half
    before = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.8]])
    after = torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.8]])
    clip = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    valid, boxes = torch.tensor([True, False, True]), torch.tensor([[0, 0, 12, 6], [2, 6, 12, 8]])
    combined = torch.tensor([[0.1, 0.7, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.7]])
    image = torch.full((3, 8, 12), 99, dtype=torch.uint8)
    proposals = ProposalMaps(image, masks, after, clip, valid, boxes, combined, ("cat", "dog", "sky"), threshold=0.4)
    kept = torch.tensor([[True, True, False, False], [True, False, False, False]])
    shifted = {1: torch.tensor([[False, False, True, False], [False, True, False, True]])}
    return proposals, CalibrationMaps(before, after, kept, shifted, 2)


def test_the_table_says_what_each_says_of_each_mask(calibrated):
    proposals, calibration = calibrated
    table = opinions(proposals, "p").table.set_index(["mask", "class"])
    assert list(table.columns) == ["proposal network", "CLIP on the crop", "combined"]
    assert list(table.index.unique("mask")) == [0, 2, 1]  # those that count most first
    assert table.loc[(0, "dog")].tolist() == pytest.approx([0.7, 0.8, 0.7])
    assert table.loc[1]["CLIP on the crop"].isna().all()  # without a crop CLIP says nothing
    panel = opinions(proposals, "p", calibration)
    dog = panel.table.set_index(["mask", "class"]).loc[(0, "dog")]
    assert dog[["before SIM", "after SIM", "CLIP on the crop"]].tolist() == pytest.approx([0.3, 0.7, 0.8])
    assert panel.caption.endswith("SIM changed the best class of 1 of 3 proposals.")


def test_crops_are_cut_where_the_run_cuts_them_and_overwritten_tokens_are_counted(calibrated):
    proposals, calibration = calibrated
    crop = np.asarray(opinions(proposals, "p").figure.axes[1].images[0].get_array())
    assert (crop == 99).all()  # at one half, the right side would be blank
    proposals.threshold = 0.5
    crop = np.asarray(opinions(proposals, "p").figure.axes[1].images[0].get_array())
    assert (crop[:, :6] == 99).all() and (crop[:, 6:] == 128).all()
    titles = [axes.get_title() for axes in opinions(proposals, "p", calibration).figure.axes]
    assert "1 of 2 blank tokens overwritten a layer" in titles
    assert "2 of 3 blank tokens overwritten a layer" in titles
    assert "no crop" in titles


def test_all_of_the_best_pairs_are_outlined():
    table = pd.DataFrame({"threshold": [0.3, 0.3, 0.4], "weight": [0.1, 0.5, 0.1], "mIoU": [7.02, 7.04, 3.0]})
    ax = search_heatmap(table, "").figure.axes[0]
    assert sorted(patch.get_xy() for patch in ax.patches) == [(0, 0), (1, 0)]

"""Decoding some of the queries in training: which ones, and that the loss is that of a smaller vocabulary."""

import torch

from ovparts_lib.systems.base import chosen_queries


def test_present_parts_are_always_chosen_and_the_background_comes_last():
    targets = torch.tensor([[[3, 3], [9, 1]]])
    for seed in range(20):
        torch.manual_seed(seed)
        chosen = chosen_queries(targets, count=9, number=5)
        assert len(chosen) == 6
        assert chosen[-1] == 9
        assert {1, 3} <= set(chosen.tolist())
        assert torch.equal(chosen, chosen.unique())
        # What searchsorted does to targets is undone by looking the channels up again.
        assert torch.equal(chosen[torch.searchsorted(chosen, targets)], targets)


def test_more_parts_than_wanted_are_all_kept():
    assert chosen_queries(torch.arange(7), count=9, number=2).tolist() == [0, 1, 2, 3, 4, 5, 6, 9]


def test_every_absent_part_is_drawn_sooner_or_later():
    torch.manual_seed(0)
    drawn = {part for _ in range(200) for part in chosen_queries(torch.tensor([0]), count=6, number=2).tolist()}
    assert drawn == set(range(7))

"""Mask2Former's matching and losses against the reference's numbers at the same points."""

from pathlib import Path

import numpy as np
import torch

from ovparts_lib.models.mask2former.losses import PointLosses
from ovparts_lib.models.maskformer.matching import Segments

GOLDEN = Path(__file__).parents[2] / "golden" / "scan"


def recorded_inputs():
    generator = np.random.Generator(np.random.PCG64(5))
    logits = 4 * generator.standard_normal((2, 14, 10), np.float32)
    masks = 3 * generator.standard_normal((2, 14, 20, 24), np.float32)
    segments = []
    for count in (3, 5):
        labels = np.sort(generator.permutation(9)[:count])
        ids = generator.integers(0, max(count, 1) + 1, (10, 12)).repeat(8, 0).repeat(8, 1)
        targets = torch.from_numpy(ids[None] == np.arange(count)[:, None, None])
        segments.append(Segments(torch.from_numpy(labels), targets))
    return torch.from_numpy(logits), torch.from_numpy(masks), segments


def recorded_draws(monkeypatch, seed):
    """Every uniform draw is replaced by the recording's; the shapes drawn so far are in the list that is returned."""
    shapes = []

    def rand(*shape, generator=None):
        shapes.append(shape)
        values = np.random.Generator(np.random.PCG64(seed + len(shapes) - 1)).random(shape, np.float32)
        return torch.from_numpy(values)

    monkeypatch.setattr(torch, "rand", rand)
    return shapes


def test_matching_losses_and_gradients_are_the_recorded_ones(monkeypatch):
    golden = np.load(GOLDEN / "golden_criterion.npz")
    logits, masks, segments = recorded_inputs()
    np.testing.assert_array_equal(torch.cat([image.class_ids for image in segments]), golden["target_labels"])
    areas = torch.cat([image.masks.flatten(1).sum(1) for image in segments])
    np.testing.assert_array_equal(areas, golden["target_area"])
    losses = PointLosses(points=200)
    recorded_draws(monkeypatch, 5000)
    matches = [losses.match(*image) for image in zip(logits, masks, segments, strict=True)]
    np.testing.assert_array_equal(torch.cat([queries for queries, _ in matches]), golden["match_query"])
    np.testing.assert_array_equal(torch.cat([targets for _, targets in matches]), golden["match_target"])
    shapes = recorded_draws(monkeypatch, 5000)
    logits.requires_grad_(), masks.requires_grad_()
    found = losses(logits[None], masks[None], segments)
    assert shapes == [(1, 200, 2), (1, 200, 2), (8, 600, 2), (8, 50, 2)]
    for name, weight in (("ce", 2), ("mask", 5), ("dice", 5)):
        value = found[f"loss_{name}"].item() / weight
        np.testing.assert_allclose(value, golden[f"loss_{name}"], rtol=1e-5, err_msg=name)
    total = sum(found.values())
    np.testing.assert_allclose(total.item(), golden["total"], rtol=1e-5)
    total.backward()
    np.testing.assert_allclose(
        logits.grad, golden["grad_logits"], rtol=0, atol=1e-5 * np.abs(golden["grad_logits"]).max()
    )
    norms = masks.grad.flatten(2).norm(dim=2)
    np.testing.assert_allclose(norms, golden["grad_masks_norm"], rtol=0, atol=1e-5 * golden["grad_masks_norm"].max())


def test_images_without_segments_still_teach_what_is_no_object():
    empty = Segments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16, 16, dtype=torch.bool))
    logits = torch.zeros(2, 1, 4, 3, requires_grad=True)
    masks = torch.randn(2, 1, 4, 4, 4, requires_grad=True)
    losses = PointLosses(points=20)(logits, masks, [empty])
    assert set(losses) == {f"loss_{name}{level}" for name in ("ce", "mask", "dice") for level in ("", "_0")}
    torch.testing.assert_close(losses["loss_ce"], 2 * torch.tensor(3.0).log())
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0
    sum(losses.values()).backward()
    assert logits.grad[..., 2].lt(0).all() and not masks.grad.any()

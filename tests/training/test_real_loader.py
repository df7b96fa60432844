"""The loop over the real reader, transforms and loader, on the few pictures of a released layout."""

import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.loader import training_loader
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.transforms import training_transform
from ovparts_lib.training import ResumeError, TrainingInterrupted, TrainingSettings, train
from tests.data.released_layout import write_layout

SETTINGS = TrainingSettings(iterations=8, batch_size=2, accumulate=2, learning_rate=1e-2, seed=3, device="cpu")


class PixelModel(nn.Module):
    """Classifies pixels by colour; remembers which pictures it saw."""

    def __init__(self, stop_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 74, 1)
        self.seen, self.stop_at = [], stop_at

    def loss(self, batch):
        self.seen += batch["image_ids"]
        assert len(batch["vocabulary"].parts) == 74
        if len(self.seen) == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        losses = []
        for image, part_map in zip(batch["images"], batch["part_maps"], strict=True):
            logits = F.interpolate(self.layer(image[None].float() / 255), part_map.shape[-2:])
            losses.append(F.cross_entropy(logits, part_map[None].long(), ignore_index=255, reduction="sum"))
        return {"loss_sem_seg": torch.stack(losses).mean() / 1_000}

    def parameter_groups(self, weight_decay):
        return [{"params": self.parameters(), "weight_decay": weight_decay}]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pascal_part_116")
    write_layout(root)
    return root


def loader(root, workers):
    transform = training_transform(shortest_edge=48, longest_edge=80, crop=32, photometric=True, flip=0.5)
    return training_loader(TrainingDataset(PascalPart116(root), "train", transform), 2, workers, seed=3)


@pytest.mark.parametrize(("first", "then"), [(2, 0), (0, 2)])
def test_pictures_and_augmentations_go_on_where_they_stopped(root, tmp_path, first, then):
    whole = PixelModel()
    train(whole, loader(root, 0), SETTINGS, run_dir=tmp_path / "whole")
    stopped = PixelModel(stop_at=12)
    with pytest.raises(TrainingInterrupted, match="after step 3"):
        train(stopped, loader(root, first), SETTINGS, run_dir=tmp_path / "stopped")
    resumed = PixelModel()
    train(resumed, loader(root, then), SETTINGS, run_dir=tmp_path / "stopped")
    assert len(whole.seen) == 32
    assert stopped.seen + resumed.seen == whole.seen
    assert torch.equal(whole.layer.weight, resumed.layer.weight)


def test_another_seed_of_the_loader_is_an_error(root, tmp_path):
    train(PixelModel(), loader(root, 0), SETTINGS, run_dir=tmp_path)
    dataset = TrainingDataset(PascalPart116(root), "train")
    with pytest.raises(ResumeError, match="sampler has seed 3, this run 4"):
        train(PixelModel(), training_loader(dataset, 2, seed=4), SETTINGS, run_dir=tmp_path)

import pickle
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

import ovparts_lib.data.loader as module
from ovparts_lib.data.dataset import TrainingDataset
from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.loader import ResumableSampler, derived_seed, tensor_bytes, training_loader
from ovparts_lib.data.readers.ade20k_part_234 import ADE20KPart234
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.transforms import training_transform


class Noise(Dataset):
    """Samples that are their index and one random number."""

    vocabulary = ("a stand-in",)

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        image = torch.cat([torch.tensor([float(index)]), torch.rand(1)])
        nothing = torch.zeros(0)
        return {
            "image": image,
            "part_map": nothing,
            "object_map": nothing,
            "image_id": str(index),
            "vocabulary": self.vocabulary,
        }


def drawn(loader, batches):
    """(index, random number) of every sample of the next batches."""
    return [tuple(image.tolist()) for batch in islice(loader, batches) for image in batch["images"]]


def test_stream_is_concatenated_permutations():
    draws = list(islice(ResumableSampler(7, seed=3), 21))
    assert [draw.position for draw in draws] == list(range(21))
    epochs = [tuple(draw.index for draw in draws[k : k + 7]) for k in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) == 3
    assert [d.index for d in islice(ResumableSampler(7, seed=4), 21)] != [d.index for d in draws]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_stream(world_size):
    alone = list(islice(ResumableSampler(7, seed=3), 30))
    for rank in range(world_size):
        mine = list(islice(ResumableSampler(7, seed=3, rank=rank, world_size=world_size), 8))
        assert mine == alone[rank::world_size][:8]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_stream_is_identical_with_any_number_of_workers(workers):
    whole = drawn(training_loader(Noise(10), 4, workers=0, seed=5), 9)
    interrupted = training_loader(Noise(10), 4, workers=workers, seed=5)
    first = drawn(interrupted, 4)
    state = interrupted.state_dict()
    assert state["position"] == 16  # what was handed out, however far workers have fetched ahead
    resumed = training_loader(Noise(10), 4, workers=workers, seed=5)
    resumed.load_state_dict(state)
    assert first + drawn(resumed, 5) == whole
    assert len({number for _, number in whole}) == len(whole)  # no two samples share their random numbers


def test_iterating_again_continues():
    loader = training_loader(Noise(10), 4, seed=5)
    assert drawn(loader, 2) + drawn(loader, 2) == drawn(training_loader(Noise(10), 4, seed=5), 4)


def test_number_of_processes_does_not_change_what_a_step_sees():
    alone = drawn(training_loader(Noise(10), 6, seed=5), 4)
    ranks = [training_loader(Noise(10), 6, seed=5, rank=rank, world_size=2) for rank in range(2)]
    shared = [drawn(loader, 4) for loader in ranks]
    for step in range(4):
        together = [sample for samples in shared for sample in samples[step * 3 : step * 3 + 3]]
        assert sorted(together) == sorted(alone[step * 6 : step * 6 + 6])
    assert {loader.state_dict()["position"] for loader in ranks} == {24}


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_leaves_the_callers_random_numbers_alone(workers):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    stream = iter(training_loader(Noise(10), 4, workers=workers, seed=5))
    for _ in range(3):
        next(stream)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_real_samples_with_every_augmentation(reader, workers):
    """Two epochs of the real dataset: the same pictures and labels whether or not the run was interrupted."""

    def loader(number_of_workers):
        transform = training_transform(
            shortest_edge=(24, 32, 40), longest_edge=60, crop=24, photometric=True, pad_size=28, ignore_label=255
        )
        return training_loader(TrainingDataset(reader, "train", transform), 2, workers=number_of_workers, seed=11)

    whole = list(islice(loader(0), 5))
    resumed = loader(workers)
    list(islice(resumed, 2))
    again = loader(workers)
    again.load_state_dict(resumed.state_dict())
    for expected, batch in zip(whole[2:], islice(again, 3), strict=True):
        assert batch["image_ids"] == expected["image_ids"]
        for key in ("images", "part_maps", "object_maps"):
            assert all(torch.equal(a, b) for a, b in zip(batch[key], expected[key], strict=True))
        assert batch["vocabulary"] is again.dataset.dataset.vocabulary
    augmented = [image for batch in whole for image in batch["images"]]
    assert len({image.numpy().tobytes() for image in augmented}) == len(augmented)


def test_a_damaged_picture_is_named_through_a_worker(root):
    dataset = TrainingDataset(PascalPart116(root), "train")
    for path in (root / "images/train").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"images/train/\d{4}_\d{6}\.jpg: cannot be decoded"):
        next(iter(training_loader(dataset, 1, workers=1)))


def test_datasets_can_be_sent_to_spawned_workers(reader):
    dataset = TrainingDataset(reader, "train", training_transform(shortest_edge=32, photometric=True, final_size=24))
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == 3 and copy[0]["image"].shape == (3, 24, 24)


def test_checkpoint_of_another_dataset_or_seed_is_refused():
    state = training_loader(Noise(10), 4, seed=5).state_dict()
    with pytest.raises(ValueError, match="length 10, this run 9"):
        training_loader(Noise(9), 4, seed=5).load_state_dict(state)
    with pytest.raises(ValueError, match="seed 5, this run 6"):
        training_loader(Noise(10), 4, seed=6).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 3, "world_size": 2}, "batch_size 3 must be a positive multiple of the 2 processes"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_loader(Noise(10), **arguments)


def test_derived_seeds_do_not_collide():
    seeds = {derived_seed(seed, purpose, n) for seed in range(20) for purpose in (0, 1) for n in range(200)}
    assert len(seeds) == 20 * 2 * 200 and all(0 <= seed < 2**63 for seed in seeds)


def clipseg_batch(label_type):
    """A batch of the CLIPSeg recipe: pictures at 352, labels at the size of the resized picture."""
    images = [torch.zeros(3, 352, 352, dtype=torch.uint8)] * 8
    maps = [torch.zeros(800, 1067, dtype=label_type)] * 8
    return {"images": images, "part_maps": maps, "object_maps": maps}


def test_labels_travel_as_the_small_type(root, ade_root):
    sample = TrainingDataset(PascalPart116(root), "train")[0]
    assert sample["part_map"].dtype == sample["object_map"].dtype == torch.uint8
    assert TrainingDataset(ADE20KPart234(ade_root), "train")[0]["part_map"].dtype == torch.int32
    assert tensor_bytes(clipseg_batch(torch.int64)) > 110e6 and tensor_bytes(clipseg_batch(torch.uint8)) < 17e6


def test_too_little_shared_memory_is_an_error_that_says_what_to_do(root, monkeypatch):
    dataset = TrainingDataset(PascalPart116(root), "train")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(RuntimeError, match=r"2 workers keep about .* MB free: set workers: 0 .*--shm-size=1g"):
        training_loader(dataset, 2, workers=2)
    next(iter(training_loader(dataset, 2)))  # no worker, no shared memory
    sample = tensor_bytes(dataset[0])
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2 * 2 * sample))
    assert training_loader(dataset, 2, workers=2).timeout == module.TIMEOUT > 0

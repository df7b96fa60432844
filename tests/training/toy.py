"""A model, a data set and a sampler with the interfaces of the real ones, small enough to train in milliseconds."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from ovparts_lib.systems.base import chosen_queries
from ovparts_lib.vocabularies import PartVocabulary

WORDS = PartVocabulary.from_words({"dog": ["head", "tail"], "car": ["wheel"]})


class ToyModel(nn.Module):
    """Three trained tensors, dropout (draws from torch's generator), a buffer that training changes, frozen weights."""

    def __init__(self, dropout=0.25, queries=None):
        super().__init__()
        self.queries = queries  # how many classes a step trains on, drawn as the systems do
        torch.manual_seed(7)
        self.backbone = nn.Linear(12, 6)
        self.head = nn.Linear(6, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros(()))

    def loss(self, batch):
        self.calls += 1
        pixels = torch.stack([image.float().flatten() / 255 for image in batch["images"]])
        logits = self.frozen(self.head(self.dropout(torch.tanh(self.backbone(pixels)))))
        labels = torch.stack([part_map.flatten()[0] for part_map in batch["part_maps"]])
        if self.queries is not None:
            chosen = chosen_queries(labels, 3, self.queries)[:-1]
            outside = torch.ones(3, dtype=torch.bool).index_fill(0, chosen, False)
            logits = logits.masked_fill(outside, -5.0)
        return {"loss_class": F.cross_entropy(logits, labels), "loss_size": 1e-2 * logits.square().mean()}

    def parameter_groups(self, weight_decay):
        return [
            {"params": [self.backbone.weight, self.head.weight], "weight_decay": weight_decay},
            {"params": [self.backbone.bias, self.head.bias], "weight_decay": 0.0},
        ]


class ToyPictures(Dataset):
    def __init__(self, length=37):
        generator = torch.Generator().manual_seed(3)
        self.images = torch.randint(0, 256, (length, 3, 2, 2), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, 3, (length,), generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        part_map = self.labels[index].expand(2, 2).clone()
        return {
            "image": self.images[index],
            "part_map": part_map,
            "object_map": part_map,
            "image_id": f"picture_{index}",
        }


class ToySampler(Sampler):
    """Endless permutations; ``position`` is the place in the stream of all ranks together."""

    def __init__(self, length, seed=0, rank=0, world_size=1):
        self.length, self.seed, self.rank, self.world_size, self.position = length, seed, rank, world_size, 0

    def __iter__(self):
        for place in itertools.count(self.position + self.rank, self.world_size):
            generator = torch.Generator().manual_seed(self.seed + place // self.length)
            yield torch.randperm(self.length, generator=generator)[place % self.length].item()


class ToyLoader(DataLoader):
    """Like ``data.loader.TrainingLoader``: the position moves when a batch is handed out."""

    def __iter__(self):
        for batch in super().__iter__():
            self.sampler.position += len(batch["images"]) * self.sampler.world_size
            yield batch

    def state_dict(self):
        return {"position": self.sampler.position, "length": self.sampler.length}

    def load_state_dict(self, state):
        if state["length"] != self.sampler.length:
            raise ValueError(f"the stream had {state['length']} samples, now {self.sampler.length}")
        self.sampler.position = state["position"]


def collate(samples):
    return {
        "images": [sample["image"] for sample in samples],
        "part_maps": [sample["part_map"] for sample in samples],
        "object_maps": [sample["object_map"] for sample in samples],
        "image_ids": [sample["image_id"] for sample in samples],
        "vocabulary": WORDS,
    }


def toy_loader(batch_size=4, workers=0, rank=0, world_size=1, dataset=None):
    dataset = ToyPictures() if dataset is None else dataset
    sampler = ToySampler(len(dataset), rank=rank, world_size=world_size)
    return ToyLoader(dataset, batch_size // world_size, sampler=sampler, num_workers=workers, collate_fn=collate)

"""A dataset of random label maps and a model that answers with random scores, both repeatable."""

import torch
from torch import nn

from ovparts_lib.data.dataset import EvaluationSample, ObjectRegion
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary

VOCABULARY = PartVocabulary(
    "toy",
    ("cat's head", "cat's tail", "dog's head", "dog's tail", "bus's wheel", "bus's door", "bus's window"),
    ("cat", "dog", "rock", "bus"),
    frozenset({"dog"}),
)


class Labels(torch.utils.data.Dataset):
    """Blocky maps: objects in vertical stripes, parts of the object in rows, holes without a label."""

    def __init__(self, images=5, vocabulary=VOCABULARY, skipped=3):
        self.vocabulary, self.images, self.skipped_records = vocabulary, images, skipped

    def __len__(self):
        return self.images

    def skipped_among(self, images):
        return self.skipped_records if images >= len(self) else min(images, self.skipped_records)  # one an image

    def __getitem__(self, index):
        if index >= self.images:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(index)
        height, width = (int(v) for v in torch.randint(12, 30, (2,), generator=draw))
        ignore = self.vocabulary.ignore_label
        object_map = torch.full((height, width), ignore)
        part_map = torch.full((height, width), ignore)
        chosen = [i for i in range(len(self.vocabulary.objects)) if torch.rand(1, generator=draw) < 0.7] or [0]
        chosen = chosen[:: max(1, len(chosen) // 5)][:5]  # a large vocabulary's would not fit side by side
        present = []
        for place, object_id in enumerate(chosen):
            left, right = place * width // len(chosen), (place + 1) * width // len(chosen)
            object_map[:, left:right] = object_id
            parts = self.vocabulary.parts_of(object_id)
            if parts:
                present.append(object_id)
                drawn = torch.randint(0, len(parts) + 1, (height, right - left), generator=draw)
                part_map[:, left:right] = torch.tensor([*parts, ignore])[drawn]
        image = torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
        regions = tuple(ObjectRegion.of(i, (object_map == i).numpy()) for i in present)
        return EvaluationSample(image, part_map, object_map, regions, f"picture_{index}")


class Scripted(nn.Module):
    """Scores that depend on the picture alone; remembers how it was asked."""

    def __init__(self, grid=(6, 7)):
        super().__init__()
        self.grid, self.calls = grid, []
        self.register_buffer("where", torch.zeros(1))

    def predict(self, images, vocabulary, *, class_ids=None, background=True):
        self.calls.append({"images": len(images), "class_ids": class_ids, "background": background})
        self.was_training = self.training
        answers = []
        for image in images:
            draw = torch.Generator().manual_seed(int(image.long().sum()))
            logits = torch.randn(len(vocabulary.classes) + 1, *self.grid, generator=draw).to(self.where.device)
            ids = tuple(range(len(vocabulary.classes))) if class_ids is None else tuple(class_ids)
            answers.append(Scores(logits[list(ids)], ids, logits[-1] if background else None, tuple(image.shape[-2:])))
        return answers

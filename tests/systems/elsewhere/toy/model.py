"""The toy's model."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ovparts_lib.checked import hyper_parameters
from ovparts_lib.images import square_pixels
from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, ClipSize, build_clip
from ovparts_lib.systems.base import SegmentationSystem, batch_labels
from ovparts_lib.systems.scores import CostMaps, Scores


@hyper_parameters
class ToySize:
    """Hyper-parameters."""

    clip: ClipSize = VIT_B_16
    image_size: int = 224


SIZES = {"released": ToySize(), "miniature": ToySize(MINIATURE, 96)}


class Toy(SegmentationSystem):
    """Cosine of an embedded patch of 8 x 8 pixels and a word; the background's logit is a parameter."""

    groups: ClassVar = {"patches": ("patches.",)}

    def __init__(self, size=SIZES["released"], *, temperature=0.07):
        super().__init__()
        self.size, self.temperature = size, temperature
        self.clip = build_clip(size.clip)
        self.patches = nn.Conv2d(3, size.clip.embed_dim, 8, stride=8)
        self.background = nn.Parameter(torch.zeros(()))
        self.set_trainable(["patches"])

    def parameter_groups(self, weight_decay):
        return [{"params": list(self.patches.parameters()), "weight_decay": weight_decay}]

    def logits(self, images, vocabulary, class_ids):
        pixels = square_pixels(images, self.size.image_size, self.background.device)
        with torch.no_grad():
            names = [vocabulary.classes[i] for i in class_ids]
            texts = F.normalize(encode_text(self.clip, tokenize(names, self.size.clip.context_length)), dim=-1)
        return torch.einsum("bchw,nc->bnhw", F.normalize(self.patches(pixels), dim=1), texts) / self.temperature

    def loss(self, batch):
        ids = range(len(batch["vocabulary"].classes))
        logits = self.logits(batch["images"], batch["vocabulary"], ids)
        logits = torch.cat([logits, self.background.expand(len(logits), 1, *logits.shape[2:])], dim=1)
        size = logits.shape[-2:]
        labels = [F.interpolate(x[None, None].float(), size)[0, 0].long() for x in batch_labels(batch)]
        return {"loss": F.cross_entropy(logits, torch.stack(labels).to(logits.device))}

    def score(self, images, request):
        vocabulary, class_ids, found = request.vocabulary, request.class_ids, []
        for image in images:
            logits = self.logits([image], vocabulary, class_ids)[0]
            nothing = self.background.expand(logits.shape[-2:]) if request.background else None
            scores = Scores(logits, class_ids, nothing, tuple(image.shape[-2:]))
            words = tuple(vocabulary.classes[i] for i in class_ids)
            maps = {"cost": CostMaps(logits * self.temperature, logits, {}, words, words)} if request.inspected else {}
            found.append((scores, maps))
        return found

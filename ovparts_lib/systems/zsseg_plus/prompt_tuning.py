"""CPTCoOp's training: prompts and fusion weight from annotated part regions of seen objects, before stage 1.

How the released prompts were trained was never published. What their module fixes is kept: crops, dense features, means
under masks and text path are those of stage 2, the temperature is 100, and only P, M and the fusion weight learn. The
rest is a choice made here: cross-entropy over all seen classes; and, from the plain learnable prompts of the code that
this system grew out of (Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation", ECCV 2022), SGD at
0.02 with momentum 0.9, weight decay 5e-4, cosine schedule, 100 steps at 0.005 of the rate, batches of 32 regions, and
at most 128 regions of each class. CLIP's image tower is frozen, so every crop is encoded once, before the first step.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pydantic
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovparts_lib.progress_bar import tqdm
from ovparts_lib.systems.zsseg_plus.model import ZssegPlus
from ovparts_lib.systems.zsseg_plus.options import Competing
from ovparts_lib.systems.zsseg_plus.regions import RegionFeatures, cut_object, dense_features, pool_regions
from ovparts_lib.vocabularies import PartVocabulary

MOMENTUM = 0.9


@pydantic.dataclasses.dataclass(frozen=True)
class PromptTuningSettings:
    """Optimisation of the prompts; the defaults are explained in the module's docstring.

    Attributes:
        iterations: number of steps.
        batch_size: regions of a step.
        learning_rate: of SGD.
        weight_decay: of all learned values but the fusion weight.
        warmup: steps at the beginning with a constant small rate.
        warmup_factor: of the rate in these steps.
        regions_per_class: regions of a class that are used, the first ones met.
        competing: classes of the cross-entropy: ``all`` that are seen, or those of the region's ``object``.
        seed: of the batches.
    """

    iterations: PositiveInt = 3200
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.02
    weight_decay: float = 5e-4
    warmup: int = 100
    warmup_factor: float = 0.005
    regions_per_class: PositiveInt = 128
    competing: Competing = "all"
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * self.warmup_factor
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.iterations))


@dataclass(frozen=True)
class PartRegions:
    """Annotated regions as stage 2 sees them.

    Attributes:
        regions: float32 (n, embed_dim), mean feature of each.
        wholes: float32 (n, embed_dim), of its object.
        class_ids: int64 (n,).
    """

    regions: Tensor
    wholes: Tensor
    class_ids: Tensor


@torch.inference_mode()
def collect_regions(
    model: ZssegPlus, samples: Iterable[dict[str, Any]], *, per_class: int | None = None
) -> PartRegions:
    """Encode the annotated parts of records.

    Args:
        model: has CLIP; it is used as it is, on its device.
        samples: ``image`` uint8 (3, h, w), ``part_map`` and ``object_map`` int64 (h, w), one object each, and
            ``vocabulary``, such as a :class:`data.dataset.TrainingDataset` serves without augmentation.
        per_class: stop taking regions of a class at this number; None for all.

    Raises:
        ValueError: no sample has a part.
    """
    found, counts = [], {}
    for sample in tqdm(samples, desc="Encoding regions", unit="record"):
        ignore = sample["vocabulary"].ignore_label
        part_map, inside = (sample[key].to(model.device) for key in ("part_map", "object_map"))
        inside = inside != ignore
        ids = [number for number in part_map[inside].unique().tolist() if number != ignore]
        ids = [number for number in ids if per_class is None or counts.get(number, 0) < per_class]
        if not ids:
            continue
        crop = cut_object(sample["image"].to(model.device), inside, part_map, model.size.crop_side)
        features = pool_regions(dense_features(model.clip, crop.pixels[None])[0], crop, ids)
        found.append((features.regions, features.whole.expand_as(features.regions), torch.tensor(ids)))
        counts |= {number: counts.get(number, 0) + 1 for number in ids}
    if not found:
        raise ValueError("no sample shows a part of an object, so there is nothing to tune prompts on")
    # as ordinary tensors, because prompts are trained on them
    with torch.inference_mode(False):
        regions, wholes, class_ids = (torch.cat(column).clone() for column in zip(*found, strict=True))
    return PartRegions(regions, wholes, class_ids.to(model.device))


def region_class_logits(model: ZssegPlus, regions: PartRegions, vocabulary: PartVocabulary) -> Tensor:
    """Logits (n, classes) of regions, with gradient into the prompts."""
    learner, pairs, temperature = model.prompt_learner, vocabulary.pairs, model.size.clip.temperature
    fused = RegionFeatures(regions.regions, regions.wholes).fused(learner.fuse_weight)
    if learner.conditional:
        texts = learner.encode(model.clip, pairs, regions.wholes)
        return temperature * torch.einsum("nd,ncd->nc", fused, texts)
    return temperature * fused @ learner.encode(model.clip, pairs).T


def tune_prompts(
    model: ZssegPlus,
    regions: PartRegions,
    vocabulary: PartVocabulary,
    settings: PromptTuningSettings | None = None,
) -> pd.DataFrame:
    """Train the prompts and the fusion weight of a model on annotated regions; nothing else of it changes.

    Args:
        model: its ``prompt_learner`` is trained in place.
        regions: of :func:`collect_regions`.
        vocabulary: whose classes the regions have; the seen ones.
        settings: optimisation.

    Returns:
        One row a step: ``step``, ``loss``, ``accuracy`` of the batch, ``fuse_weight``.

    Raises:
        FloatingPointError: the loss is not finite; the prompts are those of the last step that was.
    """
    settings = settings or PromptTuningSettings()
    learner = model.prompt_learner
    generator = torch.Generator().manual_seed(settings.seed)
    owners = torch.tensor(vocabulary.part_to_object, device=model.device)
    prompts = [learner.prefix_prompt, learner.connect_prompt]
    for parameter in learner.parameters():
        parameter.requires_grad_(True)
    decays = [{"params": prompts, "weight_decay": settings.weight_decay}, {"params": [learner.fuse_weight]}]
    optimiser = torch.optim.SGD(decays, lr=settings.learning_rate, momentum=MOMENTUM)
    rows = []
    try:
        for step in tqdm(range(settings.iterations), desc="Tuning prompts", unit="step"):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate(step)
            chosen = torch.randint(len(regions.class_ids), (settings.batch_size,), generator=generator)
            chosen = chosen.to(model.device)
            batch = PartRegions(regions.regions[chosen], regions.wholes[chosen], regions.class_ids[chosen])
            logits = region_class_logits(model, batch, vocabulary)
            if settings.competing == "object":
                logits = logits.masked_fill(owners != owners[batch.class_ids][:, None], float("-inf"))
            loss = F.cross_entropy(logits, batch.class_ids)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss of prompt tuning is {float(loss)} in step {step}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right = (logits.argmax(1) == batch.class_ids).float().mean()
            rows.append((step, float(loss.detach()), float(right), float(learner.fuse_weight.detach())))
    finally:
        for parameter in learner.parameters():
            parameter.requires_grad_(False)
    return pd.DataFrame(rows, columns=["step", "loss", "accuracy", "fuse_weight"])


@torch.inference_mode()
def naming_accuracy(model: ZssegPlus, regions: PartRegions, vocabulary: PartVocabulary) -> pd.DataFrame:
    """How many regions stage 2 names right, among the parts of their object: what tuning prompts should raise.

    Returns:
        One row for ``seen`` and one for ``unseen`` classes that occur: ``classes``, ``regions``, ``accuracy`` (0..1).
    """
    owners = torch.tensor(vocabulary.part_to_object, device=model.device)
    pieces = []
    for start in range(0, len(regions.class_ids), 32):
        piece = slice(start, start + 32)
        batch = PartRegions(regions.regions[piece], regions.wholes[piece], regions.class_ids[piece])
        logits = region_class_logits(model, batch, vocabulary)
        pieces.append(logits.masked_fill(owners != owners[batch.class_ids][:, None], float("-inf")).argmax(1))
    right = (torch.cat(pieces) == regions.class_ids).tolist()
    seen = ["seen" if vocabulary.is_seen(number) else "unseen" for number in regions.class_ids.tolist()]
    table = pd.DataFrame({"classes": seen, "right": right})
    return table.groupby("classes")["right"].agg(regions="size", accuracy="mean").reset_index()

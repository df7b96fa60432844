"""Fine-tuning of the CLIP that classifies crops, on labelled masks and their images (CS-CLIP).

The release trains on OVSeg's mined proposals, whose nouns come from captions. Where there are none, a pair here is a
labelled mask and its class in the first of the model's templates: a choice of ours.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ovparts_lib.images import resize_image
from ovparts_lib.models.clip.pair_crops import clip_pixels, masked_crop, pair_transform, transformed
from ovparts_lib.systems.adapted_clip import adapt
from ovparts_lib.systems.scan.adaptation import ShiftedClip, save_shifted
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.weights import fuse_clip

__all__ = ["FILE", "adapt_clip", "context_pair", "fuse_clip"]
WEIGHT_DECAY = 0.2
FILE = "shifted_clip.safetensors"


def adapt_clip(
    model: Scan, training: Dataset, folder: Path, *, iterations: int, batch_size: int, learning_rate: float, seed: int
) -> pd.DataFrame:
    """Fine-tune the image tower and the temperature of ``model.clip``, in place, and write it alone as ``FILE``.

    Args:
        model: its CLIP learns; its frozen copy stays the original, which also gives the context.
        training: samples with ``image``, ``part_map`` and ``vocabulary``, as training on masks takes them.
        folder: of the file.
        iterations: steps of AdamW.
        batch_size: crops of a step, each of another image.
        learning_rate: see :func:`adapt`.
        seed: of the choice of images, masks, crops and overwritten tokens.

    Returns:
        ``way``, ``step`` and ``loss``.
    """
    torch.manual_seed(seed)
    size = model.size
    shifted = ShiftedClip(
        model.clip, size.clip, shift_blocks=size.shift_blocks, shift_ratio=model.shift_ratio, seed=seed
    ).to(model.device)
    batches = (_batch(training, batch_size, size.clip.image_size, model.templates[0]) for _ in count())
    losses = adapt(shifted, batches, iterations, learning_rate, WEIGHT_DECAY)
    save_shifted(shifted, folder / FILE)
    return pd.DataFrame({"way": "contextual_shift", "step": range(1, len(losses) + 1), "loss": losses})


def context_pair(sample: dict[str, Any], side: int) -> dict[str, Tensor | str] | None:
    """A random labelled mask of a sample as a crop, its mask, its whole image, and the name of its class.

    Args:
        sample: of a training dataset.
        side: of the squares that crop, mask and image become.

    Returns:
        ``pixels`` (3, s, s), ``masks`` (s, s), ``images`` (3, s, s), ``name``; None where nothing is labelled.
    """
    classes, labels = sample["vocabulary"].classes, sample["part_map"]
    present = [label for label in labels.unique().tolist() if label < len(classes)]
    if not present:
        return None
    label = present[int(torch.randint(len(present), ()))]
    crop, mask = masked_crop(sample["image"], labels == label)
    transform = pair_transform(side, train=True)
    pixels, mask = transformed(transform, Image.fromarray(crop.permute(1, 2, 0).numpy()), mask)
    return {
        "pixels": pixels,
        "masks": mask,
        "images": clip_pixels(resize_image(sample["image"], (side, side))),
        "name": classes[label],
    }


def _batch(training: Dataset, batch_size: int, side: int, template: str) -> dict[str, Any]:
    pairs: list[dict[str, Any]] = []
    for index in torch.randperm(len(training)).tolist():  # type: ignore[arg-type]
        pair = context_pair(training[index], side)
        pairs += [] if pair is None else [pair]
        if len(pairs) == batch_size:
            break
    batch = {key: torch.stack([pair[key] for pair in pairs]) for key in ("pixels", "masks", "images")}
    return batch | {"captions": [template.format(pair["name"]) for pair in pairs]}

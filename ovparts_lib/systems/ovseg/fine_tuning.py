"""Adaptation of the CLIP that classifies crops, from pairs to the file that is fused into the segmentation model.

Pairs come from the training split. Where the paper takes the nouns of a picture's captions, the picture's labelled
classes stand for them: no benchmark here brings captions. Pairs mined from captions elsewhere are read from a table.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from ovparts_lib.data.dataset import read_sample
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.systems.adapted_clip import FINE_TUNING, MASK_PROMPT_TUNING, AdaptedClip, adapt
from ovparts_lib.systems.ovseg.model import Ovseg
from ovparts_lib.systems.ovseg.pairs import Pair, PairDataset, labelled_pairs, mine_pairs, write_pairs
from ovparts_lib.systems.ovseg.weights import export_adapted, fuse_clip

FILE = "adapted_clip.safetensors"
TRAINS = {"fine_tuning": FINE_TUNING, "mask_prompts": MASK_PROMPT_TUNING}
WEIGHT_DECAY = {"fine_tuning": 0.2, "mask_prompts": 0.0}

__all__ = ["FILE", "adapt_clip", "crop_accuracy", "fuse_clip"]


def adapt_clip(
    model: Ovseg,
    training: Any,
    folder: Path,
    *,
    rates: Mapping[str, float],
    pairs: str,
    iterations: int,
    batch_size: int,
    seed: int,
) -> pd.DataFrame:
    """Adapt the CLIP of a model to masked crops, in place, and write it alone as ``FILE``.

    Args:
        model: its CLIP learns, and its mask prompts.
        training: a dataset whose records the pairs come from.
        folder: of the file, and of the pairs.
        rates: learning rate by way, ``fine_tuning`` or ``mask_prompts``, in the order in which they follow each other.
        pairs: ``proposals``, ``labels``, or a table of pairs.
        iterations: steps of each way.
        batch_size: crops of a step.
        seed: of the order of pairs and of their random crops.

    Returns:
        ``way``, ``step`` and ``loss``.

    Raises:
        ValueError: fewer pairs than a step takes, or no table.
    """
    torch.manual_seed(seed)
    table = Path(pairs)
    if pairs in ("proposals", "labels"):
        table = write_pairs(training_pairs(model, training, pairs), folder / "pairs")
    dataset, size = PairDataset(table, model.size.clip.image_size), model.size
    if len(dataset) < batch_size:
        raise ValueError(f"{table} has {len(dataset)} pairs, fewer than the {batch_size} of a step")
    depth = size.prompt_depth if "mask_prompts" in rates else 0
    adapted, histories = AdaptedClip(model.clip, size.clip, depth).to(model.device), []
    for way, rate in rates.items():
        adapted.set_trainable(TRAINS[way])
        batches = _batches(dataset, batch_size, with_masks=way == "mask_prompts")
        losses = adapt(adapted, batches, iterations, rate, WEIGHT_DECAY[way])
        histories.append(pd.DataFrame({"way": way, "step": range(1, len(losses) + 1), "loss": losses}))
    export_adapted(adapted, folder / FILE)
    fuse_clip(model, folder / FILE)
    return pd.concat(histories, ignore_index=True)


def training_pairs(model: Ovseg, training: Any, kind: str) -> Iterator[Pair]:
    """The pairs of a dataset's records, with the labelled classes of the training vocabulary as nouns."""
    classes = training.vocabulary.classes
    table = torch.from_numpy(training.reader.vocabulary.table(training.vocabulary))
    for record in tqdm(training.records, desc="Mining pairs", unit="image"):
        image, *_, label_map = read_sample(training.reader, record)
        labels = table[torch.from_numpy(label_map.astype(np.int64))].long()
        if kind == "labels":
            yield from labelled_pairs(image, labels, classes)
            continue
        present = [classes[label] for label in labels.unique().tolist() if 0 <= label < len(classes)]
        yield from mine_pairs(model, image.to(model.device), present)


@torch.inference_mode()
def crop_accuracy(model: Ovseg, samples: Iterable[Any], classes: Sequence[str]) -> dict[str, float]:
    """How often CLIP names annotated masks of test images right, cropped and prompted as the model does it.

    Args:
        model: the system.
        samples: with ``image`` and ``part_map``.
        classes: of the labels.

    Returns:
        ``masks``, and ``top1`` and ``top5`` in percent.
    """
    text, ranks = model.encode_classes(classes)[:-1], []
    for sample in samples:
        labels = sample.part_map
        present = [label for label in labels.unique().tolist() if 0 <= label < len(classes)]
        if present:
            masks = torch.stack([labels == label for label in present])
            regions = model.encode_regions(sample.image.to(model.device), masks.to(model.device))
            similarity = regions.embeddings @ text.T
            right = similarity.gather(1, torch.tensor(present, device=similarity.device)[:, None])
            ranks.append((similarity > right).sum(1).cpu())
    rank = torch.cat(ranks) if ranks else torch.zeros(0)
    return {"masks": len(rank)} | {f"top{n}": 100 * (rank < n).float().mean().item() for n in (1, 5)}


def _batches(dataset: PairDataset, batch_size: int, *, with_masks: bool) -> Iterator[dict[str, Any]]:
    """Shuffled batches without end, each pair once an epoch; what is left of an epoch is dropped."""
    while True:
        for batch in DataLoader(dataset, batch_size, shuffle=True, drop_last=True):
            yield batch if with_masks else batch | {"masks": None}

"""Mask-category pairs, which CLIP is adapted on: mined from proposals and captions, or taken from labels.

The released code lacks the mining. Chosen here, where paper (section 3.2) and authors are silent: nouns are matched in
the mean of the prompt templates; every noun takes its nearest proposal, whatever the similarity; nothing is lemmatised;
crops are stored without loss, their masks beside them.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ovparts_lib.models.clip.pair_crops import clip_pixels, mask_by_colour, masked_crop, pair_transform, transformed
from ovparts_lib.systems.ovseg.model import Ovseg

TABLE = "pairs.tsv"


@dataclass
class Pair:
    """A masked crop and what it shows.

    Attributes:
        crop: uint8 (3, h, w) RGB, ``FILL`` outside the mask.
        mask: bool (h, w).
        title: text.
        similarity: cosine of the crop and the text under the CLIP that matched them; None for labels.
    """

    crop: Tensor
    mask: Tensor
    title: str
    similarity: float | None = None


@torch.inference_mode()
def mine_pairs(model: Ovseg, image: Tensor, nouns: Sequence[str], *, masks: Tensor | None = None) -> list[Pair]:
    """For each noun of an image's captions the mask that CLIP finds most like it.

    Args:
        model: its proposal network makes the masks, and its CLIP, which should be the original one, compares them;
            mask prompts are not used.
        image: uint8 (3, H, W) RGB.
        nouns: of the captions, found by any means; the paper tags parts of speech.
        masks: bool (k, H, W), ground-truth masks in place of proposals.

    Returns:
        One pair for each noun; none where no mask has a pixel.
    """
    if not nouns:
        return []
    text = model.encode_classes(list(nouns))
    if masks is None:
        image = model.resized(image)
        probabilities, _ = model.propose(image, text)
        masks = probabilities > model.crop_rule.threshold
    regions = model.encode_regions(image, masks.to(model.device), prompts=False)
    if not len(regions.boxes):
        return []
    similarity = regions.embeddings @ text[:-1].T
    best = similarity.max(0)
    kept = masks[regions.valid.to(masks.device)]
    return [
        Pair(*masked_crop(image, kept[number]), title, value)
        for title, number, value in zip(nouns, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def labelled_pairs(image: Tensor, labels: Tensor, classes: Sequence[str]) -> list[Pair]:
    """A pair for each class that occurs in a label map, int64 (H, W); other values are ignored."""
    present = [label for label in labels.unique().tolist() if 0 <= label < len(classes)]
    return [Pair(*masked_crop(image, labels == label), classes[label]) for label in present]


def write_pairs(pairs: Iterable[Pair], folder: str | Path) -> Path:
    """Write crops and masks as PNG files, and the released code's table: tab-separated ``filepath`` and ``title``.

    Returns:
        The table.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("filepath", "title"))
        for number, pair in enumerate(pairs):
            name = f"{number:07}.png"
            Image.fromarray(pair.crop.permute(1, 2, 0).numpy()).save(folder / name)
            Image.fromarray(pair.mask.numpy()).save(folder / f"{number:07}_mask.png")
            table.writerow((name, pair.title))
    return folder / TABLE


class PairDataset(torch.utils.data.Dataset):
    """Pairs of a table, as normalised squares.

    Args:
        table: of :func:`write_pairs`, or of the release; relative paths are relative to its folder.
        side: of the squares.
        train: a random crop of at least 0.9 of the area; otherwise the centre of the resized crop.
        masks: ``stored`` beside the crops; or by ``colour``, as released: background is what equals ``FILL`` after
            resizing, so that blended borders count as foreground.

    Raises:
        ValueError: the table lacks a column, or has no rows.
    """

    def __init__(
        self, table: str | Path, side: int = 224, *, train: bool = True, masks: Literal["stored", "colour"] = "stored"
    ) -> None:
        if masks not in ("stored", "colour"):
            raise ValueError(f"masks must be 'stored' or 'colour', not {masks!r}")
        self.folder, self.masks, self.transform = Path(table).parent, masks, pair_transform(side, train=train)
        with Path(table).open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file, delimiter="\t"))
        if not self.rows or not {"filepath", "title"} <= set(self.rows[0]):
            raise ValueError(f"{table} needs the tab-separated columns filepath and title, and at least one row")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        row = self.rows[index]
        path = self.folder / row["filepath"]
        crop = Image.open(path).convert("RGB")
        if self.masks == "colour":
            crop = self.transform(crop)
            pixels = v2.functional.pil_to_tensor(crop)
            pixels, mask = clip_pixels(pixels), mask_by_colour(pixels)
        else:
            mask = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png"))) > 0
            pixels, mask = transformed(self.transform, crop, mask)
        return {"pixels": pixels, "masks": mask, "captions": row["title"]}

"""CS-CLIP: fine-tuning of the CLIP that classifies crops, on labelled masks that see their images' context.

The released training code, which goes back to OVSeg's, learns from OVSeg's mined proposals, whose nouns come from
captions. Where there are none, a pair here is a labelled mask and its class in the first of the model's templates: a
choice of ours.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.images import resize_image
from ovparts_lib.models.clip.pair_crops import clip_pixels, masked_crop, pair_transform, transformed
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.models.clip.towers import ClipSize, activation_of, image_embeddings, image_hidden_states
from ovparts_lib.systems.adapted_clip import AdaptedClip, adapt
from ovparts_lib.systems.scan.contextual_shift import Shifted, contextual_shift, draw_shifted
from ovparts_lib.systems.scan.model import Scan
from ovparts_lib.systems.scan.weights import fuse_clip

__all__ = ["FILE", "adapt_clip", "context_pair", "fuse_clip"]  # with what a notebook step does after it
WEIGHT_DECAY = 0.2
FILE = "shifted_clip.safetensors"


class ShiftedClip(AdaptedClip):
    """A CLIP that learns to classify masked crops whose blank tokens are partly overwritten with their image's context.

    The context comes from a copy of the image tower as it was before the training; it and the text tower are frozen.

    Args:
        clip: to start from. Its activation counts: the released script forces QuickGELU on weights that were trained
            with GELU, and evaluates with GELU. ``build_clip(size, quick_gelu=True)`` does as that script.
        size: its hyper-parameters.
        shift_blocks: blocks after which tokens are overwritten.
        shift_ratio: share of a crop's background tokens.
        seed: of their random choice.
    """

    def __init__(
        self,
        clip: open_clip.CLIP,
        size: ClipSize,
        *,
        shift_blocks: Sequence[int] = (1, 3, 5, 7, 9),
        shift_ratio: float = 0.15,
        seed: int = 4242,
    ) -> None:
        super().__init__(clip, size, prompt_depth=0)
        self.shift_blocks, self.shift_ratio = tuple(shift_blocks), shift_ratio
        self.original_visual = copy.deepcopy(clip.visual).requires_grad_(False)
        self.generator = torch.Generator().manual_seed(seed)

    def embed_shifted(self, pixels: Tensor, kept: Tensor, images: Tensor, shifted: Shifted) -> Tensor:
        """Normalised embeddings (b, embed_dim) of crops in their context.

        Args:
            pixels: (b, 3, s, s), crops, normalised for CLIP.
            kept: bool (b, patches), patches that hold any of the mask.
            images: (b, 3, s, s), the whole image of each crop, squashed and normalised.
            shifted: tokens that are overwritten; none of ``kept``.
        """
        with torch.no_grad():
            states = image_hidden_states(self.original_visual, images, set(shifted)).states if shifted else {}
        hook = contextual_shift({block: tokens[:, 0] for block, tokens in states.items()}, shifted)
        return F.normalize(image_embeddings(self.clip.visual, pixels, after_block=hook), dim=-1)

    def embed_batch(self, batch: dict[str, Any]) -> Tensor:
        """Normalised embeddings (b, embed_dim) of a batch's crops, whose tokens are drawn here.

        Args:
            batch: ``pixels`` (b, 3, s, s), ``masks`` (b, s, s), ``images`` (b, 3, s, s), and ``captions``.
        """
        device = self.clip.logit_scale.device
        kept = patch_masks(batch["masks"].to(device), self.size.patch_size)
        shifted = draw_shifted(kept, self.shift_blocks, self.shift_ratio, self.generator)
        return self.embed_shifted(batch["pixels"].to(device), kept, batch["images"].to(device), shifted)


def save_shifted(model: ShiftedClip, path: str | Path, **metadata: object) -> Path:
    """Write the fine-tuned CLIP as our own file, which :func:`systems.scan.weights.fuse_clip` reads.

    Args:
        model: the model.
        path: file to write, ``….safetensors``.
        **metadata: anything JSON can say that should be kept with the weights.
    """
    state = {f"clip_model.{name}": tensor for name, tensor in model.clip.state_dict().items()}
    facts = {"system": "shifted_clip", "size": asdict(model.size), "activation": activation_of(model.clip)}
    return save_weights(state, path, {**metadata, **facts})


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

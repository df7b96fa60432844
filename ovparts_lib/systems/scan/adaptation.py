"""CS-CLIP: fine-tuning of CLIP's image tower on masked crops that see their images' context.

Source: the released training code of SCAN, which goes back to OVSeg's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.checkpoints.native import save_weights
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.models.clip.towers import ClipSize, activation_of, image_embeddings, image_hidden_states
from ovparts_lib.systems.adapted_clip import AdaptedClip
from ovparts_lib.systems.scan.contextual_shift import Shifted, contextual_shift, draw_shifted


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
        if not set(shift_blocks) <= set(range(1, size.vision_layers + 1)):
            raise ValueError(f"shift_blocks must be blocks 1 to {size.vision_layers}, not {tuple(shift_blocks)}")
        if not 0 <= shift_ratio <= 1:
            raise ValueError(f"shift_ratio must be 0 to 1, not {shift_ratio}")
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
        if any((chosen & kept).any() for chosen in shifted.values()):
            raise ValueError("patches that hold some of the mask must not be overwritten")
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

"""Mask-adapted CLIP: fine-tuning of the image tower on masked crops (FT), and mask prompt tuning (MPT).

Source: Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023, sections 3.2 and 3.3,
and its released training code.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import open_clip
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.models.clip.token_masks import mask_prompts, patch_masks
from ovparts_lib.models.clip.towers import ClipSize, image_embeddings
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.systems.parameter_groups import train_only

FINE_TUNING = ("image_tower", "logit_scale")
MASK_PROMPT_TUNING = ("mask_prompt", "logit_scale")
_UNDECAYED = ("bn", "ln", "bias", "logit_scale", "mask_prompt")


class AdaptedClip(nn.Module):
    """A CLIP that learns to classify masked crops; its text tower never trains.

    Args:
        clip: to start from: the original for FT or "MPT only", a fine-tuned one for FT followed by MPT.
        size: its hyper-parameters.
        prompt_depth: layers with mask prompts, the input being the first; 0 for none.
    """

    groups: ClassVar = {
        "image_tower": ("clip.visual.",),
        "mask_prompt": ("mask_prompt",),
        "logit_scale": ("clip.logit_scale",),
    }

    def __init__(self, clip: open_clip.CLIP, size: ClipSize, prompt_depth: int = 3) -> None:
        super().__init__()
        patches = (size.image_size // size.patch_size) ** 2
        self.clip, self.size = clip, size
        self.mask_prompt = nn.Parameter(0.02 * torch.randn(prompt_depth, patches, size.vision_width))
        self.set_trainable(MASK_PROMPT_TUNING if prompt_depth else FINE_TUNING)

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """Choose what trains, of ``FINE_TUNING`` or ``MASK_PROMPT_TUNING``; returns the parameters' names."""
        return train_only(self, self.groups, groups)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: matrices decay; vectors, norms, the temperature and prompts do not."""
        decayed: tuple[list, list] = ([], [])
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                free = parameter.ndim < 2 or any(piece in name for piece in _UNDECAYED)
                decayed[free].append(parameter)
        settings = {"betas": (0.9, 0.98), "eps": 1e-6}
        return [
            {"params": parameters, "weight_decay": decay, **settings}
            for parameters, decay in zip(decayed, (weight_decay, 0.0), strict=True)
            if parameters
        ]

    def embed_crops(self, pixels: Tensor, masks: Tensor | None = None) -> Tensor:
        """Normalised embeddings (b, embed_dim) of crops.

        Args:
            pixels: (b, 3, s, s), normalised for CLIP.
            masks: (b, s, s), 0 outside; blank patches get the mask prompts. None: no prompts.
        """
        visual, hook = self.clip.visual, None
        if masks is not None:
            hook = mask_prompts(visual, self.mask_prompt, patch_masks(masks, self.size.patch_size))
        return F.normalize(image_embeddings(visual, pixels, after_block=hook), dim=-1)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Normalised embeddings (b, embed_dim) of captions, taken verbatim; no gradient."""
        with torch.no_grad():
            return F.normalize(encode_text(self.clip, tokenize(captions, self.size.context_length)), dim=-1)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Symmetric InfoNCE over the batches of all processes; equal captions count as each other's negatives.

        Args:
            batch: ``pixels`` (b, 3, s, s), ``captions`` (b texts), and ``masks`` (b, s, s) or None.
        """
        crops, captions = self.embed_batch(batch), self.embed_captions(batch["captions"])
        return {"loss_contrastive": contrastive_loss(self.clip, crops, captions)}

    def embed_batch(self, batch: dict[str, Any]) -> Tensor:
        """Normalised embeddings (b, embed_dim) of a batch's crops."""
        device, masks = self.mask_prompt.device, batch.get("masks")
        return self.embed_crops(batch["pixels"].to(device), None if masks is None else masks.to(device))

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the temperature in CLIP's range, 1 to 100; to be called after every step of the optimiser."""
        self.clip.logit_scale.clamp_(0, math.log(100))


def contrastive_loss(clip: open_clip.CLIP, images: Tensor, texts: Tensor) -> Tensor:
    """Symmetric InfoNCE of normalised embeddings (b, embed_dim), over the batches of all processes."""
    images, texts = gathered(images), gathered(texts)
    logits = clip.logit_scale.exp() * images @ texts.T
    true = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, true) + F.cross_entropy(logits.T, true)) / 2


def gathered(features: Tensor) -> Tensor:
    """The features of all processes' batches; the gradient goes through this process's alone."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return features
    pieces = [torch.empty_like(features) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(pieces, features.detach())
    pieces[torch.distributed.get_rank()] = features
    return torch.cat(pieces)


def rate_factor(step: int, iterations: int, warmup: int = 100) -> float:
    """The released schedule, as a multiple of the base learning rate: linear warm-up, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (iterations - warmup)))


def adapt(
    model: AdaptedClip, batches: Iterator[dict[str, Any]], iterations: int, learning_rate: float, weight_decay: float
) -> list[float]:
    """Train what the model has chosen to train, with the released optimiser and schedule.

    Args:
        model: the CLIP.
        batches: of :meth:`AdaptedClip.loss`, without end.
        iterations: steps.
        learning_rate: after the warm-up of 100 steps, or a tenth of them if that is less; then a cosine to 0.
        weight_decay: of matrices.

    Returns:
        The loss of each step.
    """
    optimiser = torch.optim.AdamW(model.parameter_groups(weight_decay), lr=learning_rate)
    warmup, losses = max(1, min(100, iterations // 10)), []
    for step in tqdm(range(iterations), desc="Adapting CLIP", unit="step"):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * rate_factor(step, iterations, warmup)
        loss = model.loss(next(batches))["loss_contrastive"]
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss of step {step + 1} is not finite; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        model.after_step()
        losses.append(loss.item())
    model.requires_grad_(False)
    return losses

"""The whole image as the frozen CLIP sees it: what SIM attends to, and what CS shows the crops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from ovparts_lib.models.clip.towers import image_hidden_states
from ovparts_lib.systems.scan.semantic_integration import SemanticIntegration
from ovparts_lib.systems.scan.sizes import ScanSize


@dataclass
class ImageContext:
    """What the frozen CLIP says of whole images.

    Attributes:
        memory: (b, blocks * grid^2, embed_dim), what SIM attends to.
        embedding: (b, embed_dim), not normalised.
        class_tokens: (b, width) after each block of CS.
    """

    memory: Tensor
    embedding: Tensor
    class_tokens: dict[int, Tensor]


def image_context(
    visual: VisionTransformer, integration: SemanticIntegration, padded: Tensor, size: ScanSize
) -> ImageContext:
    """What the frozen CLIP says of images, reduced to a square by nearest neighbour as released.

    Args:
        visual: the frozen image tower.
        integration: makes SIM's memory of its patches, with gradient.
        padded: (b, 3, h, w), normalised for CLIP and padded.
        size: which blocks are read.
    """
    with torch.no_grad():
        side, depth = size.clip.image_size, size.clip.vision_layers
        pixels = F.interpolate(padded, size=(side, side), mode="nearest")
        states = image_hidden_states(visual, pixels, {*size.context_blocks, *size.shift_blocks, depth}).states
        embedding = (visual.ln_post(states[depth][:, 0]) @ visual.proj).float()
        class_tokens = {block: states[block][:, 0] for block in size.shift_blocks}
    patches = [states[block][:, 1:] for block in size.context_blocks]
    return ImageContext(integration.memory(patches, size.grid), embedding, class_tokens)

"""What CLIPSeg and PartCLIPSeg share: sizes, CLIP's towers, the visual adapter, what trains, labels."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovparts_lib.checked import checked_arguments
from ovparts_lib.images import LabelResize, resize_labels
from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.models.clip.text_cache import TextCache, text_weights
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, build_clip, image_hidden_states
from ovparts_lib.models.film_decoder import FilmDecoder, QuerySize
from ovparts_lib.systems.base import SegmentationSystem

RELEASED_GROUPS = ("visual_adapter", "language", "film", "decoder")
# Decoder tokens computed at once: so many that a CUDA device is busy, so few that they fit into a CPU's cache.
_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 16}
RELEASED = QuerySize(VIT_B_16)
# One layer: post-norm layers in a row take far longer to train from nothing than the miniature is meant to.
MINIATURE_QUERY = QuerySize(
    MINIATURE, image_size=96, reduce_dim=64, extract_layers=(3,), decoder_heads=1, decoder_mlp=64
)


class VisualAdapter(nn.Module):
    """``0.2 * ReLU(up(ReLU(down(h)))) + 0.8 * h``: a bottleneck of a quarter of the width, without biases."""

    def __init__(self, width: int, mix: float = 0.2) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // 4, bias=False)
        self.up = nn.Linear(width // 4, width, bias=False)
        self.mix = mix

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.mix * F.relu(self.up(F.relu(self.down(hidden)))) + (1 - self.mix) * hidden


class QuerySegmenter(SegmentationSystem):
    """CLIP, visual adapter, decoder and background query, and how they are trained; no loss and no prediction.

    The parameters in ``RELEASED_GROUPS`` train from the start; :meth:`set_trainable` changes that.

    Args:
        size: hyper-parameters.
        query_chunk: (image, query) pairs that are decoded at once; bounds memory and changes no result. None chooses
            by device.
        label_resize: how label maps come to the logits' size in training: ``"centre"`` takes the label at the centre
            of each pixel; ``"floor"``, as released, the one up to half a pixel above and to the left.
        training_queries: in training, decode only this many parts a step: those that occur in the batch, and others
            drawn at random with torch's generator. None decodes all parts of the vocabulary, as published. Fewer make a
            step cheaper and its positives less rare.
        background_weight: weight of the background's terms in the loss; the others weigh 1.
        checkpoint_decoder: in training, keep no activations of the decoder but compute them a second time in the
            backward pass, chunk by chunk.

    Raises:
        ValueError: an option out of its range.
    """

    # The pair stage's are PartCLIPSeg's. "film" and "decoder" are told apart by the rest.
    groups: ClassVar = {
        "visual_adapter": ("visual_adapter.",),
        "language": ("clip.token_embedding.", "clip.positional_embedding"),
        "film": ("decoder.film_", "decoder.pair_film_"),
        "decoder": (
            *(f"decoder.{module}." for module in ("reduces", "layers", "head")),
            *(f"decoder.pair_{module}." for module in ("mix", "text", "head")),
        ),
        "background_query": ("background_query",),
    }
    undecayed = ("clip.positional_embedding",)
    decoder_class: ClassVar[type[FilmDecoder]] = FilmDecoder

    @checked_arguments
    def __init__(
        self,
        size: QuerySize = RELEASED,
        *,
        query_chunk: PositiveInt | None = None,
        label_resize: LabelResize = "centre",
        training_queries: PositiveInt | None = None,
        background_weight: float = 0.05,
        checkpoint_decoder: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.query_chunk, self.label_resize = size, query_chunk, label_resize
        self.training_queries, self.background_weight = training_queries, background_weight
        self.checkpoint_decoder = checkpoint_decoder
        self.clip = build_clip(size.clip, quick_gelu=True)
        self.visual_adapter = VisualAdapter(size.clip.vision_width)
        self.decoder = self.decoder_class(size)
        self.background_query = nn.Parameter(torch.randn(1, size.clip.embed_dim) * size.clip.embed_dim**-0.5)
        self.text_cache = TextCache()
        self.set_trainable(RELEASED_GROUPS)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """As of any system, what does not decay first: the order decides the last digits of the gradient's norm."""
        return sorted(super().parameter_groups(weight_decay), key=lambda group: group["weight_decay"])

    def _encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Conditions (n, embed_dim), with gradient where the text tower trains, otherwise from the cache."""
        trains = any(parameter.requires_grad for parameter in text_weights(self.clip))
        if self.training and torch.is_grad_enabled() and trains:
            return encode_text(self.clip, tokenize(prompts, self.size.clip.context_length))
        return self.text_cache.encode(self.clip, prompts)

    def _encode_images(
        self, pixels: Tensor, keep_attention: bool = False
    ) -> tuple[list[Tensor], tuple[int, int], dict[int, Tensor]]:
        """Query-independent part: reduced activations (b, t, reduce_dim), deepest first; grid; tower's attention."""
        depths = [layer + 1 for layer in reversed(self.size.extract_layers)]
        tower_trains = any(parameter.requires_grad for parameter in self.clip.visual.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and tower_trains):
            maps = range(1, max(depths) + 1) if keep_attention else ()
            hidden = image_hidden_states(self.clip.visual, pixels, depths, keep_attention=maps)
        adapted = [self.visual_adapter(hidden.states[depth]) for depth in depths]
        return self.decoder.reduce(adapted), hidden.grid, hidden.attention

    def _chunk_length(self, images: int) -> int:
        """Queries that are decoded at once, for every image of the batch."""
        tokens = (self.size.image_size // self.size.clip.patch_size) ** 2 + 1
        pairs = self.query_chunk or _TOKENS.get(self.device.type, 1 << 11) // tokens
        return max(1, pairs // images)

    def _recomputed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result; its activations are not kept for the backward pass if that is what was asked for."""
        if self.checkpoint_decoder and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def _resized_labels(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Label maps at the size of the logits, or of their patches, int64 (b, h, w)."""
        resized = [resize_labels(labels, size, self.label_resize, released_dtype=torch.float32) for labels in maps]
        return torch.stack(resized).long().to(self.device)

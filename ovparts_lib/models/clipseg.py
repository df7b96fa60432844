"""CLIPSeg with trainable text embeddings and a visual adapter: the one-stage baseline of OV-PARTS.

A frozen CLIP image tower gives three activations; a small decoder, conditioned on the text embedding of one part name
at a time, turns them into that part's binary logits. One more fixed vector stands for the background.
Sources: Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022; Wei et al., "OV-PARTS",
NeurIPS 2023 (VA+L+F+D fine-tuning); and the code released with both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovparts_lib.data.transforms import check_label_resize, resize_labels
from ovparts_lib.models.clip import MINIATURE, VIT_B_16, ClipSize, build_clip, image_hidden_states
from ovparts_lib.models.clipseg_decoder import ClipsegDecoder, PlainHead, RefinedHead, binary_segmentation_loss
from ovparts_lib.models.preprocess import square_pixels
from ovparts_lib.models.scores import AttentionMaps, PartScores
from ovparts_lib.models.text import TextCache, encode_text, tokenize
from ovparts_lib.vocabularies.vocabulary import Vocabulary

BACKGROUND_WEIGHT = 0.05
# Beginnings of parameter names. "film" and "decoder" are told apart by the longer match.
TRAINABLE_GROUPS = {
    "visual_adapter": ("visual_adapter.",),
    "language": ("clip.token_embedding.", "clip.positional_embedding"),
    "film": ("decoder.film_",),
    "decoder": ("decoder.reduces.", "decoder.layers.", "decoder.head."),
    "background_query": ("background_query",),
}
RELEASED_GROUPS = ("visual_adapter", "language", "film", "decoder")


@dataclass(frozen=True)
class ClipsegSize:
    """Hyper-parameters of CLIPSeg.

    Attributes:
        clip: the CLIP underneath.
        image_size: side of the square every image is resized to.
        reduce_dim: width of the decoder.
        extract_layers: blocks of the image tower to read, counted from 0 as in the released configuration, so that
            layer i gives the tower's hidden state i + 1.
        decoder_heads: attention heads of the decoder.
        decoder_mlp: hidden width of the decoder's MLPs.
        refined: the head with a 3x3 convolution and two upsampling steps; False for the plain one of rd64 and rd16.
    """

    clip: ClipSize
    image_size: int = 352
    reduce_dim: int = 64
    extract_layers: tuple[int, ...] = (3, 6, 9)
    decoder_heads: int = 4
    decoder_mlp: int = 2048
    refined: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.clip.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the patch size {self.clip.patch_size}")
        if self.reduce_dim % self.decoder_heads:
            raise ValueError(f"reduce_dim {self.reduce_dim} is not a multiple of decoder_heads {self.decoder_heads}")
        if not self.extract_layers or not set(self.extract_layers) <= set(range(self.clip.vision_layers)):
            raise ValueError(
                f"extract_layers {self.extract_layers} must be blocks of the image tower, 0 to "
                f"{self.clip.vision_layers - 1}"
            )


RELEASED = ClipsegSize(VIT_B_16)
# One layer: post-norm layers in a row take far longer to train from nothing than the miniature is meant to.
MINIATURE_CLIPSEG = ClipsegSize(
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


class Clipseg(nn.Module):
    """CLIPSeg for object-specific parts. See the module's docstring.

    The parameters in ``RELEASED_GROUPS`` train from the start; :meth:`set_trainable` changes that.

    Args:
        size: hyper-parameters, ``RELEASED`` or ``MINIATURE_CLIPSEG``.
        query_chunk: (image, query) pairs that are decoded at once; bounds memory and changes no result. None chooses
            by device.
        label_resize: how label maps come to the logits' size in training: ``"centre"`` takes the label at the centre
            of each pixel; ``"floor"``, as released, the one up to half a pixel above and to the left.
        training_queries: in training, decode only this many parts a step: those that occur in the batch, and others
            drawn at random with torch's generator. None decodes all parts of the vocabulary, as published. Fewer make a
            step cheaper and its positives less rare.
        checkpoint_decoder: in training, keep no activations of the decoder but compute them a second time in the
            backward pass, chunk by chunk.
    """

    def __init__(
        self,
        size: ClipsegSize = RELEASED,
        *,
        query_chunk: int | None = None,
        label_resize: Literal["centre", "floor"] = "centre",
        training_queries: int | None = None,
        checkpoint_decoder: bool = False,
    ) -> None:
        super().__init__()
        if query_chunk is not None and query_chunk < 1:
            raise ValueError(f"query_chunk must be at least 1, not {query_chunk}")
        if training_queries is not None and training_queries < 1:
            raise ValueError(f"training_queries must be at least 1, or None for all parts, not {training_queries}")
        check_label_resize(label_resize)
        self.size = size
        self.query_chunk = query_chunk
        self.label_resize = label_resize
        self.training_queries = training_queries
        self.checkpoint_decoder = checkpoint_decoder
        self.clip = build_clip(size.clip, quick_gelu=True)
        width, embed_dim = size.clip.vision_width, size.clip.embed_dim
        self.visual_adapter = VisualAdapter(width)
        head = (RefinedHead if size.refined else PlainHead)(size.reduce_dim, size.clip.patch_size)
        self.decoder = ClipsegDecoder(
            depth=len(size.extract_layers),
            vision_width=width,
            condition_width=embed_dim,
            width=size.reduce_dim,
            heads=size.decoder_heads,
            mlp_width=size.decoder_mlp,
            head=head,
        )
        self.background_query = nn.Parameter(torch.randn(1, embed_dim) * embed_dim**-0.5)
        self.text_cache = TextCache()
        self.set_trainable(RELEASED_GROUPS)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.background_query.device

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """Choose what trains; everything else is frozen.

        Args:
            groups: of ``TRAINABLE_GROUPS``. "VA+L+F+D" of the paper is ``RELEASED_GROUPS``.

        Returns:
            Names of the parameters that train.

        Raises:
            ValueError: no such group.
        """
        for group in groups:
            if group not in TRAINABLE_GROUPS:
                near = get_close_matches(group, TRAINABLE_GROUPS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TRAINABLE_GROUPS)}"
                raise ValueError(f"no trainable group {group!r}; {hint}")
        beginnings = tuple(beginning for group in groups for beginning in TRAINABLE_GROUPS[group])
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(beginnings) if beginnings else False)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: LayerNorms and embedding tables without decay, all else, biases too, with."""
        plain, decayed = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                exempt = ".norm" in name or name.startswith(TRAINABLE_GROUPS["language"])
                (plain if exempt else decayed).append(parameter)
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
        return [group for group in groups if group["params"]]

    def encode_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Conditions of a vocabulary's parts, (n, embed_dim), unnormalised; the background's is not among them.

        With gradient if the model is in training mode, gradients are enabled and the text tower has parameters that
        train; otherwise from the cache.
        """
        trains = any(parameter.requires_grad for parameter in self._text_parameters())
        if self.training and torch.is_grad_enabled() and trains:
            return encode_text(self.clip, tokenize(vocabulary.prompts, self.size.clip.context_length))
        return self.text_cache.encode(self.clip, vocabulary.prompts)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch: weighted binary cross-entropy over parts and background.

        A pixel without a part of the vocabulary, inside an object or not, is background.

        Args:
            batch: ``images`` (list of uint8 (3, h, w)), ``part_maps`` (list of int64 (H, W), ids of ``vocabulary`` or
                its ignore label), ``vocabulary``; ``image_ids``, if given, are used in messages.

        Returns:
            ``{"loss_sem_seg": scalar}``, float32.

        Raises:
            ValueError: a label is neither a part of the vocabulary nor its ignore label; the message names the image.
        """
        vocabulary = batch["vocabulary"]
        pixels = square_pixels(batch["images"], self.size.image_size, self.device)
        targets = self._targets(batch["part_maps"], vocabulary, batch.get("image_ids")).to(self.device)
        reduced, grid, _ = self._encode_images(pixels)
        conditions = torch.cat([self.encode_vocabulary(vocabulary), self.background_query])
        if self.training_queries is not None and self.training_queries < len(vocabulary.parts):
            chosen = _chosen_queries(targets, len(vocabulary.parts), self.training_queries)
            conditions, targets = conditions[chosen], torch.searchsorted(chosen, targets)
        logits, _ = self._decode(reduced, conditions, grid)
        return {"loss_sem_seg": binary_segmentation_loss(logits, targets, BACKGROUND_WEIGHT)}

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        part_ids: Sequence[int] | None = None,
        background: bool = True,
        keep_attention: bool = False,
    ) -> list[PartScores]:
        """Score the parts of a vocabulary on images.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ, each is squashed to the model's square.
            vocabulary: the words to look for.
            part_ids: indices of the parts wanted, in the order wanted; None for all. Only these are decoded.
            background: also give the background's logits.
            keep_attention: return the attention maps of the decoder (for every wanted part) and of the image tower.
                One part's take 11 MiB in the released size, so ask for a few parts.

        Returns:
            One :class:`PartScores` per image, logits at ``image_size`` squared.

        Raises:
            ValueError: no image, an image of another kind, or part ids that do not exist or repeat.
        """
        wanted = _checked_part_ids(part_ids, vocabulary)
        pixels = square_pixels(images, self.size.image_size, self.device)
        reduced, grid, clip_attention = self._encode_images(pixels, keep_attention)
        conditions = self.encode_vocabulary(vocabulary)[list(wanted)]
        if background:
            conditions = torch.cat([conditions, self.background_query])
        logits, decoder_attention = self._decode(reduced, conditions, grid, keep_attention)
        logits, count = logits.float(), len(wanted)
        scores = []
        for number, image in enumerate(images):
            attention = None
            if keep_attention:
                attention = AttentionMaps(
                    grid=grid,
                    decoder={layer: maps[number, :count] for layer, maps in enumerate(decoder_attention)},
                    clip={block: maps[number] for block, maps in clip_attention.items()},
                    queries=tuple(vocabulary.prompts[part] for part in wanted),
                )
            scores.append(
                PartScores(
                    logits=logits[number, :count],
                    part_ids=wanted,
                    background=logits[number, count] if background else None,
                    image_size=tuple(image.shape[-2:]),
                    attention=attention,
                )
            )
        return scores

    def _text_parameters(self) -> list[nn.Parameter]:
        clip = self.clip
        modules = (clip.token_embedding, clip.transformer, clip.ln_final)
        return [clip.positional_embedding, clip.text_projection, *(p for m in modules for p in m.parameters())]

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

    def _decode(
        self, reduced: list[Tensor], conditions: Tensor, grid: tuple[int, int], keep_attention: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (b, n, h, w), and the decoder's attention if asked for, a chunk of the queries at a time."""
        pairs = self.query_chunk or (128 if conditions.is_cuda else 4)
        chunks = conditions.split(max(1, pairs // len(reduced[0])))
        if self.checkpoint_decoder and torch.is_grad_enabled():
            parts = [checkpoint(self.decoder, reduced, chunk, grid, use_reentrant=False) for chunk in chunks]
        else:
            parts = [self.decoder(reduced, chunk, grid, keep_attention) for chunk in chunks]
        logits = torch.cat([logits for logits, _ in parts], dim=1)
        return logits, [torch.cat(maps, dim=1) for maps in zip(*(maps for _, maps in parts), strict=True)]

    def _targets(self, part_maps: Sequence[Tensor], vocabulary: Vocabulary, image_ids: Sequence[str] | None) -> Tensor:
        """Positive channel of every pixel, int64 (b, s, s): the part, or the background's len(parts)."""
        size, count = (self.size.image_size, self.size.image_size), len(vocabulary.parts)
        targets = []
        for number, part_map in enumerate(part_maps):
            labels = resize_labels(part_map, size, self.label_resize, released_dtype=torch.float32).long()
            ignored = labels == vocabulary.ignore_label
            wrong = ~ignored & ((labels < 0) | (labels >= count))
            if bool(wrong.any()):
                name = f"image {image_ids[number]!r}" if image_ids else f"image {number} of the batch"
                raise ValueError(
                    f"the part map of {name} holds label {int(labels[wrong][0])}; the vocabulary "
                    f"{vocabulary.name!r} has parts 0 to {count - 1} and ignore label {vocabulary.ignore_label}: "
                    "remap the labels to it first"
                )
            targets.append(labels.masked_fill(ignored, count))
        return torch.stack(targets)


def _chosen_queries(targets: Tensor, count: int, wanted: int) -> Tensor:
    """Channels to decode, ascending: the parts in ``targets``, random others up to ``wanted``, and the background."""
    present = torch.zeros(count + 1, dtype=torch.bool, device=targets.device)
    present[targets.unique()] = True
    # Parts that occur come first, the rest in random order.
    order = torch.argsort(torch.rand(count).to(targets.device) - present[:count].float())
    kept = order[: max(wanted, int(present[:count].sum()))]
    return torch.cat([kept.sort().values, torch.tensor([count], device=targets.device)])


def _checked_part_ids(part_ids: Sequence[int] | None, vocabulary: Vocabulary) -> tuple[int, ...]:
    count = len(vocabulary.parts)
    wanted = tuple(range(count)) if part_ids is None else tuple(int(part) for part in part_ids)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(count)):
        raise ValueError(
            f"part_ids must be different numbers from 0 to {count - 1}, the parts of {vocabulary.name!r}, and at least "
            f"one; got {list(wanted)}"
        )
    return wanted

"""MiniClip: the miniature's CLIP, trained from nothing on drawn pictures and captions of all objects and parts.

A plain loop on one device. It plays the part of web-scale pre-training: captions, never a mask. Whole pictures are read
at the class token. That teaches patches little about themselves, for a caption tells of a whole picture; at web scale
they come to mean what they show, in a training this short they have to be asked to. So scenes whose objects and parts
have captions of their own are encoded too, and the mean of dense features in a region's box has to find its caption.
Source of the regions: Zhong et al., "RegionCLIP: Region-based Language-Image Pretraining", CVPR 2022, section 3.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.images import IMAGENET_MEAN, IMAGENET_STD
from ovparts_lib.miniature.caption_batches import CaptionBatches
from ovparts_lib.miniature.pictures import CaptionedPictures
from ovparts_lib.miniature.region_captions import CaptionedScenes, region_means
from ovparts_lib.models.clip.dense import dense_image_features
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip, image_hidden_states
from ovparts_lib.progress_bar import tqdm
from ovparts_lib.training.muon import Muon


@dataclass(frozen=True)
class MiniClipSettings:
    """How MiniClip is trained.

    Attributes:
        iterations: optimiser steps.
        batch_size: pictures a step; each with one of its captions, drawn anew every time.
        scenes: a step, encoded whole for their regions.
        regions: of these scenes, at most; close-ups have to find their captions among those of parts too.
        patch_share: share of the patches of pictures that are encoded, others in every step; half of them cost half as
            much and teach nearly as much (Li et al., CVPR 2023).
        learning_rate: AdamW's, for tables, norms, biases, patches and projections.
        matrix_learning_rate: Muon's, for the matrices of the transformer blocks.
        weight_decay: decoupled; none for tables, norms and biases.
        warmup: steps of linear warm-up; a cosine to zero follows.
        seed: of the weights, the order of pictures and all else.
    """

    iterations: int = 3000
    batch_size: int = 64
    scenes: int = 24
    regions: int = 160
    patch_share: float = 0.5
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.05
    warmup: int = 30
    seed: int = 0


@dataclass
class MiniClipResult:
    """A trained MiniClip.

    Attributes:
        clip: the model, in evaluation mode.
        history: columns ``step``, ``loss``, ``learning_rate``, ``seconds``.
        tokens: numbers of the tokens that captions use, ascending; the embeddings of the others are zero.
    """

    clip: open_clip.CLIP
    history: pd.DataFrame
    tokens: Tensor


def train_miniclip(
    pictures: CaptionedPictures,
    scenes: CaptionedScenes,
    size: ClipSize = MINIATURE,
    *,
    settings: MiniClipSettings = MiniClipSettings(),
    device: str | torch.device = "cpu",
    progress: bool = True,
    log_every: int = 20,
) -> MiniClipResult:
    """Train a CLIP of the given size contrastively.

    Args:
        pictures: captioned pictures of ``size.image_size``.
        scenes: with captioned regions, of any size that patches fill.
        size: hyper-parameters of the model.
        settings: the recipe.
        device: where to train.
        progress: show a progress bar.
        log_every: steps between entries of the history.

    Raises:
        ValueError: the pictures have another size than the model takes.
    """
    if pictures.size != size.image_size:
        raise ValueError(f"the pictures are {pictures.size} pixels wide, the model takes {size.image_size}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        clip = build_clip(size)
        _smooth_positions(clip)
    clip.to(device).train()
    texts = CaptionBatches([*pictures.captions, *scenes.captions], [*pictures.topics, *scenes.topics], clip)
    names_part = torch.tensor([part is not None for _, _, part in scenes.topics])
    optimisers = _optimisers(clip, texts.rows, settings)
    base_rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    draw = torch.Generator().manual_seed(settings.seed)
    entries, start, recent = [], time.perf_counter(), []
    for step in tqdm(range(1, settings.iterations + 1), "training MiniClip", disable=not progress, unit="step"):
        factor = _schedule(step, settings)
        for optimiser, rates in zip(optimisers, base_rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        scale = clip.logit_scale.exp().clamp(max=100)
        # regions of whole scenes, by the patches they consist of
        shown, regions, places, boxes = scenes.draw(settings.scenes, settings.regions, draw)
        features = dense_image_features(clip.visual, normalise(shown.to(device))).features
        means = F.normalize(region_means(features, places.to(device), boxes.to(device)), dim=-1)
        captions = texts.draw(len(pictures) + regions, draw)
        words = F.normalize(texts.encode(captions), dim=-1)
        true = texts.true_of(len(pictures) + regions, captions)
        of_regions = contrastive_loss(scale * means @ words.T, true.to(device))
        # whole pictures, at the class token; the captions of parts above are further ones that may be wrong
        chosen = torch.randint(len(pictures), (settings.batch_size,), generator=draw)
        pixels = normalise(_flipped(pictures.pictures[chosen], draw).to(device))
        kept = _drawn_patches(len(chosen), clip, settings.patch_share, draw).to(device)
        whole = F.normalize(class_embedding(clip, pixels, kept), dim=-1)
        parts, own = names_part[regions], texts.draw(chosen, draw)
        words = torch.cat([F.normalize(texts.encode(own), dim=-1), words[parts.to(device)]])
        true = texts.true_of(chosen, torch.cat([own, captions[parts]]))
        loss = (contrastive_loss(scale * whole @ words.T, true.to(device)) + of_regions) / 2
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"MiniClip's loss is {loss.item()} at step {step}; try a lower learning rate")
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for o in optimisers for g in o.param_groups for p in g["params"]], 1.0)
        for optimiser in optimisers:
            optimiser.step()
        recent.append(loss.item())
        if step % log_every == 0 or step == settings.iterations:
            rate = settings.learning_rate * factor
            seconds = time.perf_counter() - start
            entries.append({"step": step, "loss": float(np.mean(recent)), "learning_rate": rate, "seconds": seconds})
            recent = []
    texts.write_back(clip)
    return MiniClipResult(clip.eval(), pd.DataFrame(entries), texts.used)


def class_embedding(clip: open_clip.CLIP, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """CLIP's own embedding of each picture, (n, embed_dim), read at the class token.

    ``kept`` are the patches that are encoded, (n, k), as :func:`ovparts_lib.models.clip.towers.embed_patches` takes
    them.
    """
    visual = clip.visual
    depth = len(visual.transformer.resblocks)
    states = image_hidden_states(visual, pixels, (depth,), kept_patches=kept).states
    return visual.ln_post(states[depth][:, 0]) @ visual.proj


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Symmetric InfoNCE in which one picture may have several true captions, and one caption several pictures.

    Args:
        logits: (n, m) of n pictures and m >= n captions, the first n of them the pictures' own. A picture finds its own
            among all captions; the first n captions find theirs among the pictures.
        true: bool, same shape; every row, and each of the first n columns, has at least one True, the target mass is
            shared among them.
    """
    of_picture = true / true.sum(1, keepdim=True)
    rows = -(of_picture * logits.log_softmax(1)).sum(1).mean()
    own, logits = true[:, : len(true)], logits[:, : len(true)]
    of_caption = own / own.sum(0, keepdim=True)
    return (rows - (of_caption * logits.log_softmax(0)).sum(0).mean()) / 2


def normalise(pictures: Tensor) -> Tensor:
    """uint8 (n, 3, h, w) to what the image tower takes: the mean and deviation CLIPSeg uses too."""
    mean, deviation = (torch.tensor(v, device=pictures.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pictures.float() / 255 - mean) / deviation


@torch.no_grad()
def _smooth_positions(clip: open_clip.CLIP) -> None:
    """Start from sines and cosines of row and column: neighbours are alike, and other grids can be interpolated."""
    table = clip.visual.positional_embedding
    side, quarter = round((len(table) - 1) ** 0.5), table.shape[1] // 4
    rates = math.pi / 2 * 10 ** (-torch.arange(quarter) / quarter)
    row, column = (axis.reshape(-1, 1) * rates for axis in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"))
    waves = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], 1)
    table[1:, : waves.shape[1]] = 0.5 * waves


def _optimisers(clip: open_clip.CLIP, rows: nn.Parameter, settings: MiniClipSettings) -> list[torch.optim.Optimizer]:
    named = {name: p for name, p in clip.named_parameters() if name != "token_embedding.weight"}
    matrices = [p for name, p in named.items() if p.ndim == 2 and "resblocks" in name]
    taken = {id(p) for p in matrices}
    rest = {name: p for name, p in named.items() if id(p) not in taken}
    exempt = [p for name, p in rest.items() if p.ndim < 2 or "embedding" in name]
    decayed = [p for name, p in rest.items() if not (p.ndim < 2 or "embedding" in name)]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay},
         {"params": [*exempt, rows], "weight_decay": 0.0}],
        lr=settings.learning_rate, betas=(0.9, 0.98),
    )  # fmt: skip
    return [adam, Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=settings.weight_decay)]


def _schedule(step: int, settings: MiniClipSettings) -> float:
    return min(step / settings.warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * (step - 1) / settings.iterations))


def _drawn_patches(count: int, clip: open_clip.CLIP, share: float, generator: torch.Generator) -> Tensor:
    """Random patches of each of ``count`` pictures, int64 (count, k), ascending."""
    patches = len(clip.visual.positional_embedding) - 1
    kept = max(1, round(share * patches))
    return torch.rand(count, patches, generator=generator).argsort(1)[:, :kept].sort(1).values


def _flipped(pictures: Tensor, generator: torch.Generator) -> Tensor:
    flip = torch.rand(len(pictures), generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], pictures.flip(-1), pictures)

"""MiniClip: the miniature's CLIP, trained from nothing on pictures and captions of all objects and parts.

It plays the part of web-scale pre-training: pictures with words, seen and unseen ones alike, never a mask. A plain loop
on one device, that can be stopped and gone on with.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ovparts_lib.atomic import replacing
from ovparts_lib.miniature.miniclip_losses import miniclip_losses
from ovparts_lib.miniature.naming import held_out_scenes, patch_naming
from ovparts_lib.miniature.pictures import CaptionedPicture, ScenePool, cut_out
from ovparts_lib.miniature.token_rows import TokenRows
from ovparts_lib.miniature.words import Words
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip
from ovparts_lib.training.muon import Muon
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary


@dataclass(frozen=True)
class MiniClipSettings:
    """How MiniClip is trained.

    Attributes:
        iterations: optimiser steps.
        picture_sizes: sides in pixels of the pictures of a step, one of them drawn for each step.
        patches: patches a step, so that the batch is larger where pictures are smaller.
        pool: scenes that pictures are cut out of at any time.
        fresh_scenes: of these, how many are new in each step.
        learning_rate: AdamW's, for tables, norms, biases, patches and projections.
        matrix_learning_rate: Muon's, for the matrices of the transformer blocks.
        weight_decay: decoupled; none for tables, norms and biases.
        warmup: steps of linear warm-up. The rate then stays until the last part of the training.
        decay: share of the steps, the last ones, in which it falls to zero linearly.
        seed: of the weights, the scenes and all else.
    """

    iterations: int = 6000
    picture_sizes: tuple[int, ...] = (48, 48, 64, 96)
    patches: int = 2304
    pool: int = 2048
    fresh_scenes: int = 2
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.05
    warmup: int = 50
    decay: float = 0.25
    seed: int = 0

    def rate(self, step: int) -> float:
        """Factor of both learning rates in a step, from 1."""
        left = (self.iterations - step + 1) / max(self.decay * self.iterations, 1)
        return min(step / self.warmup, 1.0, left)


@dataclass
class MiniClipResult:
    """A trained MiniClip: the model, in evaluation mode, and what was logged (``step``, ``loss``, ``seconds``, …)."""

    clip: open_clip.CLIP
    history: pd.DataFrame


def train_miniclip(
    size: ClipSize = MINIATURE,
    *,
    vocabulary: PartVocabulary | None = None,
    settings: MiniClipSettings = MiniClipSettings(),
    device: str | torch.device = "cpu",
    progress: bool = True,
    state: Path | None = None,
    log_every: int = 50,
    check_every: int = 500,
) -> MiniClipResult:
    """Train a CLIP of the given size.

    Args:
        size: hyper-parameters of the model.
        vocabulary: whose objects and parts are drawn and named; None for Pascal-Part-116's.
        settings: the recipe.
        device: where to train.
        progress: show a progress bar.
        state: file the training is written to, and gone on from if it is there. Before the learning rate falls, the
            state of a training is that of a longer one too.
        log_every: steps between entries of the history, and between writings of the state.
        check_every: steps between entries with the accuracy of patches.

    Raises:
        ValueError: the state is of another recipe.
        FloatingPointError: the loss is no number any more.
    """
    vocabulary = vocabulary or load_vocabulary("pascal_part_116")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        clip = build_clip(size)
        smooth_positions(clip)
    clip.to(device).train()
    words = Words(vocabulary)
    texts = TokenRows(clip, words.texts())
    optimisers = _optimisers(clip, texts.rows, settings)
    entries, first, before = _resume(state, size, settings, clip, texts, optimisers)
    pool = ScenePool(vocabulary, settings.pool, settings.fresh_scenes, settings.seed)
    held_out = held_out_scenes(vocabulary, 100) if check_every else ()
    start, recent = time.perf_counter() - before, []
    steps = range(first + 1, settings.iterations + 1)
    for step in tqdm(steps, "training MiniClip", disable=not progress, unit="step"):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * settings.rate(step)
        rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(1, step)))
        pictures = draw_pictures(pool, words, settings, size.patch_size, step, rng)
        losses = miniclip_losses(clip, texts, words, pictures, rng)
        loss = sum(losses.values())
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"MiniClip's loss is {loss.item()} at step {step}; try a lower learning rate")
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for o in optimisers for g in o.param_groups for p in g["params"]], 1.0)
        for optimiser in optimisers:
            optimiser.step()
        recent.append({"loss": loss.item()} | {name: value.item() for name, value in losses.items()})
        if step % log_every == 0 or step == settings.iterations:
            entry = {"step": step, **pd.DataFrame(recent).mean().round(4).to_dict()}
            if check_every and (step % check_every == 0 or step == settings.iterations):
                texts.write_back()
                table = patch_naming(clip.eval(), held_out, vocabulary)["among_all_parts"]
                entry |= {f"evaluation/patches_{group}": round(float(value), 2) for group, value in table.items()}
                clip.train()
            entries.append(entry | {"seconds": round(time.perf_counter() - start, 1)})
            recent = []
            if state is not None:
                _save(state, step, size, settings, clip, texts, optimisers, entries)
    texts.write_back()
    return MiniClipResult(clip.eval(), pd.DataFrame(entries))


def draw_pictures(
    pool: ScenePool, words: Words, settings: MiniClipSettings, patch: int, step: int, rng: np.random.Generator
) -> list[CaptionedPicture]:
    """The pictures of a step, all of one size."""
    size = int(rng.choice(settings.picture_sizes))
    count = max(round(settings.patches / (size // patch) ** 2), 2)
    places = rng.integers(pool.size, size=count)
    return [cut_out(pool.at(step, int(place)), words, size, rng) for place in places]


@torch.no_grad()
def smooth_positions(clip: open_clip.CLIP) -> None:
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
    rest = {name: p for name, p in named.items() if not (p.ndim == 2 and "resblocks" in name)}
    exempt = [p for name, p in rest.items() if p.ndim < 2 or "embedding" in name]
    decayed = [p for name, p in rest.items() if not (p.ndim < 2 or "embedding" in name)]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay},
         {"params": [*exempt, rows], "weight_decay": 0.0}],
        lr=settings.learning_rate, betas=(0.9, 0.98),
    )  # fmt: skip
    optimisers = [adam, Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=settings.weight_decay)]
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["full_rate"] = group["lr"]
    return optimisers


def _recipe(size: ClipSize, settings: MiniClipSettings) -> str:
    """What must be equal for one training to go on from another's state: all but its length."""
    return json.dumps([asdict(size), asdict(replace(settings, iterations=0))])


def _save(
    path: Path, step: int, size: ClipSize, settings: MiniClipSettings, clip: open_clip.CLIP, texts: TokenRows,
    optimisers: Sequence[torch.optim.Optimizer], entries: list[dict[str, Any]],
) -> None:  # fmt: skip
    weights = {name: value for name, value in clip.state_dict().items() if name != "token_embedding.weight"}
    content = {
        "step": step,
        "falling": settings.rate(step) < 1 and step > settings.warmup,
        "iterations": settings.iterations,
        "recipe": _recipe(size, settings),
        "clip": weights,
        "rows": texts.rows.detach(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "entries": entries,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        torch.save(content, draft)


def _resume(
    path: Path | None, size: ClipSize, settings: MiniClipSettings, clip: open_clip.CLIP, texts: TokenRows,
    optimisers: Sequence[torch.optim.Optimizer],
) -> tuple[list[dict[str, Any]], int, float]:  # fmt: skip
    """Entries, step and seconds to go on from."""
    if path is None or not path.exists():
        return [], 0, 0.0
    content = torch.load(path, weights_only=True)
    longer = content["iterations"] != settings.iterations and content["falling"]
    if content["recipe"] != _recipe(size, settings) or longer:
        raise ValueError(f"{path} is of another recipe; move it away, or train with that one")
    clip.load_state_dict(content["clip"], strict=False)
    with torch.no_grad():
        texts.rows.copy_(content["rows"])
    for optimiser, state in zip(optimisers, content["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return content["entries"], content["step"], content["entries"][-1]["seconds"]

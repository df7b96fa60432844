"""The miniature as a notebook uses it: rendered, shown, and its CLIP trained."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ovparts_lib import inspection
from ovparts_lib.data import PascalPart116
from ovparts_lib.data.registry import find_dataset
from ovparts_lib.miniature.layout import render_miniature
from ovparts_lib.miniature.miniclip import MiniClipResult, MiniClipSettings, cached_miniclip, part_naming_accuracy
from ovparts_lib.miniature.pictures import CaptionedPictures
from ovparts_lib.models.clip.towers import MINIATURE
from ovparts_lib.runs import resolve_path
from ovparts_lib.vocabularies import load_vocabulary
from ovparts_lib.workbook.data import show_samples
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.systems import device_of

HELD_OUT_SEED = 1_000_003  # of the close-ups that MiniClip is tested on; training uses the run's own seed


def render(params: Any) -> PascalPart116:
    """Render the miniature, or reuse what is there, and open it as Pascal-Part-116.

    The other layouts the parameters name are rendered into folders beside ``params.data_root``.

    A miniature rendered with other settings, or by another version of the renderer, is replaced.

    Raises:
        MiniatureError: the folder holds files of something else.
    """
    settings = {"seed": params.render_seed, "overwrite": True, "processes": os.cpu_count() or 1}
    root = resolve_path(params.data_root)
    made = [render_miniature(root, train=params.train_images, val=params.val_images, **settings)]
    for dataset in params.layouts:
        folder = root.parent / find_dataset(dataset).folder
        counts = {"train": params.layout_train_images, "val": params.layout_val_images}
        made.append(render_miniature(folder, dataset, **counts, **settings))
    for summary in made:
        print(
            f"{'found' if summary.reused else 'rendered'}: {find_dataset(summary.dataset).title}'s layout, "
            f"{summary.train} training and {summary.val} validation images, seed {summary.seed}"
        )
    return PascalPart116(root)


def glance_at_miniature(params: Any, output: RunOutput) -> None:
    """Show samples of the miniature, or say which notebook makes it."""
    root = resolve_path(params.data_root)
    if not (root / "miniature.json").is_file():
        print("not rendered yet: run 01_miniature")
        return
    show_samples(PascalPart116(root), "val", params.samples, output)


def captioned_pictures(params: Any) -> CaptionedPictures:
    """The picture-caption pairs that MiniClip is trained on, drawn anew from the run's seed."""
    return CaptionedPictures(params.clip_pictures, size=MINIATURE.image_size, seed=params.seed, processes=2)


def caption_grid(pairs: CaptionedPictures, count: int) -> Figure:
    """A few pictures with one of their captions each."""
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)
    return inspection.picture_grid([pairs.pictures[i] for i in chosen], [pairs.captions[i][0] for i in chosen])


def train_miniclip(pairs: CaptionedPictures, params: Any, output: RunOutput) -> MiniClipResult:
    """Train MiniClip, or read it back if it was trained with these pictures and settings before."""
    settings = _settings(params)
    path = resolve_path(params.clip_weights)
    miniclip = cached_miniclip(path, pairs, MINIATURE, settings=settings, device=device_of(params))
    seconds = miniclip.history["seconds"].iloc[-1]
    print(
        f"{'read from ' + path.name if miniclip.reused else 'trained'}: {params.clip_iterations} steps, {seconds:.0f} s"
    )
    output.note(miniclip={"steps": params.clip_iterations, "seconds": round(float(seconds), 1)})
    return miniclip


def miniclip_figure(miniclip: MiniClipResult, params: Any, output: RunOutput) -> None:
    """Contrastive loss and learning rate over the steps."""
    output.figure(
        inspection.training_curve(miniclip.history),
        "miniclip_training",
        title="MiniClip training",
        caption=f"Contrastive loss per step; guessing would give {_settings(params).guessing_loss:.2f}.",
        data=miniclip.history,
    )


def miniclip_accuracy(miniclip: MiniClipResult, params: Any) -> pd.DataFrame:
    """How often MiniClip names a close-up that it has not seen, in percent, beside chance."""
    size = MINIATURE.image_size
    unseen_pictures = CaptionedPictures(
        params.clip_test_pictures, size=size, seed=HELD_OUT_SEED, shares={"part": 1.0}, processes=2
    )
    return (
        part_naming_accuracy(miniclip.clip, unseen_pictures, load_vocabulary("pascal_part_116")).round(1).reset_index()
    )


def _settings(params: Any) -> MiniClipSettings:
    return MiniClipSettings(
        iterations=params.clip_iterations,
        batch_size=params.clip_batch_size,
        learning_rate=params.clip_learning_rate,
        seed=params.seed,
    )

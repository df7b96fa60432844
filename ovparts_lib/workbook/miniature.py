"""The miniature as a notebook uses it: rendered, shown, and its CLIP trained."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ovparts_lib import inspection
from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.data import PascalPart116
from ovparts_lib.data.registry import find_dataset
from ovparts_lib.miniature.layout import render_miniature
from ovparts_lib.miniature.miniclip import MiniClipResult, MiniClipSettings, train_miniclip
from ovparts_lib.miniature.naming import close_up_naming, held_out_scenes, patch_naming
from ovparts_lib.miniature.shipped import load_miniclip, miniclip_facts
from ovparts_lib.models.clip.towers import MINIATURE
from ovparts_lib.runs import resolve_path
from ovparts_lib.vocabularies import load_vocabulary
from ovparts_lib.workbook.data import show_samples
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.systems import device_of


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


def captioned_pictures(params: Any) -> list[CaptionedPicture]:
    """Some pictures and captions of the kind that MiniClip is trained on."""
    vocabulary, rng = load_vocabulary("pascal_part_116"), np.random.default_rng(params.seed)
    words = Words(vocabulary)
    return [cut_out(scene, words, MINIATURE.image_size, rng) for scene in held_out_scenes(vocabulary, params.samples)]


def caption_grid(pictures: list[CaptionedPicture]) -> Figure:
    """Pictures with their captions."""
    images = [picture.picture.transpose(2, 0, 1) for picture in pictures]
    return inspection.picture_grid(images, [picture.caption for picture in pictures])


def miniclip(params: Any, output: RunOutput) -> MiniClipResult:
    """The MiniClip that comes with the package, or one trained anew; written where the systems look for it."""
    path = resolve_path(params.clip_weights)
    if params.clip_iterations:
        size = MINIATURE
        settings = MiniClipSettings(
            iterations=params.clip_iterations, learning_rate=params.clip_learning_rate, seed=params.seed
        )
        result = train_miniclip(size, settings=settings, device=device_of(params), state=output.path / "miniclip.pt")
        about = {"steps": params.clip_iterations}
    else:
        clip, size = load_miniclip()
        facts = miniclip_facts()
        result = MiniClipResult(clip.to(device_of(params)), pd.DataFrame(facts["history"]))
        about = {name: facts[name] for name in ("sha256", "commit", "settings")}
    save_clip(result.clip, size, path)
    steps, seconds = (result.history[column].iloc[-1] for column in ("step", "seconds"))
    print(f"{'trained now' if params.clip_iterations else 'of the package'}: {steps} steps, {seconds:.0f} s")
    output.note(miniclip=about)
    return result


def miniclip_figure(result: MiniClipResult, output: RunOutput) -> None:
    """The loss over the steps."""
    output.figure(
        inspection.training_curve(result.history),
        "miniclip_training",
        title="MiniClip training",
        caption="Loss of MiniClip per step.",
        data=result.history,
    )


def miniclip_accuracy(result: MiniClipResult, params: Any) -> pd.DataFrame:
    """How often MiniClip names a patch, and a close-up, of scenes it has not seen, in percent, beside chance."""
    vocabulary = load_vocabulary("pascal_part_116")
    scenes = held_out_scenes(vocabulary, params.clip_test_pictures)
    tables = {
        "patch": patch_naming(result.clip, scenes, vocabulary),
        "close-up": close_up_naming(result.clip, scenes, vocabulary, MINIATURE.image_size),
    }
    return pd.concat(tables, names=["of a"]).round(1).reset_index()

"""The miniature as a notebook uses it: rendered, shown, and its CLIP trained."""

from __future__ import annotations

from typing import Any

from ovparts_lib.data import PascalPart116
from ovparts_lib.data.miniature.layout import render_miniature
from ovparts_lib.runs import resolve_path
from ovparts_lib.runs.parameters import MiniatureParameters


def open_miniature(params: Any) -> PascalPart116:
    """Render the miniature at ``params.data_root``, or reuse the one that is there, and open it as Pascal-Part-116.

    Raises:
        MiniatureError: the folder holds a miniature with other settings, or files of something else.
    """
    fields = MiniatureParameters.model_fields
    settings = {key: getattr(params, key, fields[key].default) for key in ("train_images", "val_images", "render_seed")}
    root = resolve_path(params.data_root)
    summary = render_miniature(
        root, train=settings["train_images"], val=settings["val_images"], seed=settings["render_seed"]
    )
    done = "found" if summary.reused else "rendered"
    print(f"{done}: {summary.train} training and {summary.val} validation images, seed {summary.seed}")
    return PascalPart116(root)

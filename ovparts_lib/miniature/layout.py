"""Writing the miniature in the folder layout and file formats of a released dataset."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ovparts_lib.atomic import replacing_folder
from ovparts_lib.miniature.layouts import ade20k_part_234, partimagenet, pascal_part_116, semantic
from ovparts_lib.miniature.layouts.writing import Layout, write_shot_list
from ovparts_lib.processes import mapped
from ovparts_lib.progress_bar import tqdm

SUMMARY_FILE = "miniature.json"
PASCAL = "pascal_part_116"
LAYOUTS: dict[str, Layout] = {
    PASCAL: pascal_part_116.LAYOUT,
    "ade20k_part_234": ade20k_part_234.LAYOUT,
    "partimagenet_seg": partimagenet.SEG,
    "partimagenet_ood": partimagenet.OOD,
    **semantic.LAYOUTS,
}


class MiniatureError(RuntimeError):
    """The folder cannot take this miniature: it holds another one, or files of something else."""


@dataclass(frozen=True)
class MiniatureSummary:
    """What a rendered miniature holds.

    Attributes:
        root: its folder, in the released layout.
        dataset: the dataset whose layout and words it has.
        train: number of training images.
        val: number of validation images.
        seed: seed of the random streams.
        renderer: 12 hexadecimal digits of the drawing code; other digits draw other pictures.
        few_shot: images in the 16-shot list.
        objects: images per object, training folder.
        reused: it was there already.
    """

    root: Path
    dataset: str
    train: int
    val: int
    seed: int
    renderer: str
    few_shot: int
    objects: dict[str, int]
    reused: bool = False


def render_miniature(
    root: str | Path,
    dataset: str = PASCAL,
    *,
    train: int = 1200,
    val: int = 300,
    seed: int = 0,
    processes: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> MiniatureSummary:
    """Render the miniature, or reuse the one that is there.

    Writes pictures and labels as the dataset is released, a few-shot list ``train_16shot.json``, and ``miniature.json``
    (settings and one caption an image). The folder appears complete or not at all. Pictures depend on (dataset, seed,
    split, index) only. For the other datasets, the drawn objects that have a counterpart there appear under its name
    (:mod:`ovparts_lib.miniature.layouts.counterparts`).

    Args:
        root: folder to write; it must not exist, be empty, or hold a miniature.
        dataset: one of ``LAYOUTS``.
        train: number of training images.
        val: number of validation images.
        seed: any non-negative integer.
        processes: worker processes; one core draws some thousands of images a minute.
        overwrite: replace a miniature with other settings; nothing else is ever replaced.
        progress: show a progress bar.

    Raises:
        ValueError: a count is not positive, or there is no such dataset.
        MiniatureError: the folder holds a miniature with other settings, or something that is no miniature.
    """
    root = Path(root)
    if min(train, val) < 1:
        raise ValueError(f"the miniature needs at least one image a split; got train={train}, val={val}")
    if dataset not in LAYOUTS:
        raise ValueError(f"the miniature has no layout {dataset!r}; there are {', '.join(LAYOUTS)}")
    settings = {
        "dataset": dataset, "train": train, "val": val, "seed": seed, "renderer": renderer_fingerprint(),
    }  # fmt: skip
    if root.exists() and any(root.iterdir()):
        found = _read_summary(root)
        whole = _count_files(root) >= found["files"]
        if found["settings"] == settings and whole:
            return MiniatureSummary(root, **settings, **found["counts"], reused=True)
        if not overwrite and not whole:
            raise MiniatureError(f"{root} holds a miniature with files missing; delete it, and render it again")
        if not overwrite:
            there = found["settings"]
            told = ", ".join(f"{key} {there.get(key)} there, {value} wanted" for key, value in settings.items()
                             if there.get(key) != value)  # fmt: skip
            raise MiniatureError(
                f"{root} holds a miniature with other settings ({told}); choose another folder or delete this one"
            )
    with replacing_folder(root) as draft:
        counts = _write_all(draft, settings, processes, progress)
    return MiniatureSummary(root, **settings, **counts)


def renderer_fingerprint() -> str:
    """12 hexadecimal digits that change whenever the drawing code or a figure does."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for source in sorted((*folder.glob("*.py"), *folder.glob("figures/*.yaml"), *folder.glob("figures/*.json"))):
        if source.stem not in ("layout", "pictures"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _read_summary(root: Path) -> dict:
    try:
        found = json.loads((root / SUMMARY_FILE).read_text(encoding="utf-8"))
        return {"files": found.get("files", 0), "settings": found["settings"], "counts": found["counts"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MiniatureError(
            f"{root} holds files but no readable {SUMMARY_FILE}, so it is no finished miniature; choose another folder"
        ) from error


def _write_all(root: Path, settings: dict, processes: int, progress: bool) -> dict:
    layout = LAYOUTS[settings["dataset"]]
    for folder in layout.folders:
        (root / folder).mkdir(parents=True)
    splits = ["train"] * settings["train"] + ["val"] * settings["val"]
    numbers = [*range(settings["train"]), *range(settings["val"])]
    write = partial(layout.write, root, settings["seed"])
    results = mapped(write, splits, numbers, processes=processes, chunk=16)
    pictures = list(tqdm(results, "rendering the miniature", len(splits), disable=not progress, unit="image"))
    layout.finish(root, pictures)
    shots = write_shot_list(root, layout, pictures, settings["seed"])
    occurrences = [name for picture in pictures if picture.split == "train" for name in picture.objects]
    counts = {"few_shot": shots, "objects": {name: occurrences.count(name) for name in sorted(set(occurrences))}}
    captions = {picture.image_id: picture.caption for picture in pictures}
    summary = {"settings": settings, "counts": counts, "files": _count_files(root), "captions": captions}
    (root / SUMMARY_FILE).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return counts


def _count_files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))

"""Writing the miniature in the folder layout and file formats of the released Pascal-Part-116."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ovparts_lib.data.miniature.captions import scene_caption
from ovparts_lib.data.miniature.scene import generator, render_scene
from ovparts_lib.vocabularies.vocabulary import load_vocabulary

SUMMARY_FILE = "miniature.json"
SHOTS = 16
IMAGES, OBJECTS, PARTS = "images", "annotations_detectron2_obj", "annotations_detectron2_part"


class MiniatureError(RuntimeError):
    """The folder cannot take this miniature: it holds another one, or files of something else."""


@dataclass(frozen=True)
class MiniatureSummary:
    """What a rendered miniature holds.

    Attributes:
        root: its folder, in the released layout.
        train: number of training images.
        val: number of validation images.
        seed: seed of the random streams.
        renderer: 12 hexadecimal digits of the drawing code; other digits draw other pictures.
        few_shot: images in the 16-shot list.
        objects: images per object, training split.
        reused: it was there already.
    """

    root: Path
    train: int
    val: int
    seed: int
    renderer: str
    few_shot: int
    objects: dict[str, int]
    reused: bool = False


def render_miniature(
    root: str | Path,
    *,
    train: int = 1200,
    val: int = 300,
    seed: int = 0,
    processes: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> MiniatureSummary:
    """Render the miniature, or reuse the one that is there.

    Writes ``images/{train,val}/<id>.jpg``, ``annotations_detectron2_obj`` and ``annotations_detectron2_part``
    (8-bit PNG, 255 = none), ``train_16shot.json``, and ``miniature.json`` (settings and one caption an image). The
    folder appears complete or not at all. Pictures depend on (seed, split, index) only.

    Args:
        root: folder to write; it must not exist, be empty, or hold a miniature.
        train: number of training images.
        val: number of validation images.
        seed: any non-negative integer.
        processes: worker processes; one core draws some thousands of images a minute.
        overwrite: replace a miniature with other settings; nothing else is ever replaced.
        progress: show a progress bar.

    Raises:
        ValueError: a count is not positive.
        MiniatureError: the folder holds a miniature with other settings, or something that is no miniature.
    """
    root = Path(root)
    if min(train, val) < 1:
        raise ValueError(f"the miniature needs at least one image a split; got train={train}, val={val}")
    settings = {"train": train, "val": val, "seed": seed, "renderer": renderer_fingerprint()}
    if root.exists() and any(root.iterdir()):
        found = _read_summary(root)
        if found["settings"] == settings:
            return MiniatureSummary(root, **settings, **found["counts"], reused=True)
        if not overwrite:
            told = ", ".join(f"{key} {found['settings'].get(key)} there, {value} wanted" for key, value in
                             settings.items() if found["settings"].get(key) != value)  # fmt: skip
            raise MiniatureError(
                f"{root} holds a miniature with other settings ({told}); choose another folder, delete this one, "
                "or pass overwrite=True"
            )
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        counts = _write_all(draft, settings, processes, progress)
        if root.exists():
            shutil.rmtree(root)
        draft.chmod(0o755)
        draft.replace(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return MiniatureSummary(root, **settings, **counts)


def read_captions(root: str | Path) -> dict[str, str]:
    """Captions by image id of a rendered miniature."""
    return _read_summary(Path(root))["captions"]


def renderer_fingerprint() -> str:
    """12 hexadecimal digits that change whenever the drawing code does."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if source.stem not in ("layout", "pictures"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def few_shot_ids(objects_of_image: dict[str, list[str]], shots: int, seed: int) -> list[str]:
    """Draw up to ``shots`` images of every object that has parts; returns the sorted union of their ids."""
    rng = np.random.default_rng([seed, shots])
    chosen: set[str] = set()
    for name in load_vocabulary("pascal_part_116").objects_with_parts:
        candidates = sorted(image for image, names in objects_of_image.items() if name in names)
        chosen.update(rng.permutation(candidates)[:shots].tolist())
    return sorted(chosen)


def _read_summary(root: Path) -> dict:
    try:
        found = json.loads((root / SUMMARY_FILE).read_text(encoding="utf-8"))
        return {key: found[key] for key in ("settings", "counts", "captions")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MiniatureError(
            f"{root} holds files but no readable {SUMMARY_FILE}, so it is no finished miniature; choose another folder"
        ) from error


def _write_all(root: Path, settings: dict, processes: int, progress: bool) -> dict:
    jobs = [(split, index) for split in ("train", "val") for index in range(settings[split])]
    for split in ("train", "val"):
        for folder in (IMAGES, OBJECTS, PARTS):
            (root / folder / split).mkdir(parents=True)
    captions, objects_of_image = {}, {}
    results = _map(partial(_write_one, root, settings["seed"]), jobs, processes)
    shown = tqdm(results, "rendering the miniature", len(jobs), disable=not progress, unit="image")
    for image_id, caption, names in shown:
        captions[image_id] = caption
        if image_id.startswith("mini_train"):
            objects_of_image[image_id] = names
    shots = few_shot_ids(objects_of_image, SHOTS, settings["seed"])
    entries = [{"file_name": f"datasets/PascalPart116/{IMAGES}/train/{image_id}.jpg"} for image_id in shots]
    (root / f"train_{SHOTS}shot.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    occurrences = [name for names in objects_of_image.values() for name in names]
    counts = {"few_shot": len(shots), "objects": {name: occurrences.count(name) for name in sorted(set(occurrences))}}
    summary = {"settings": settings, "counts": counts, "captions": captions}
    (root / SUMMARY_FILE).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return counts


def _map(function: partial, jobs: list, processes: int) -> Iterator:
    if processes == 1:
        yield from map(function, jobs)
        return
    # "spawn": forking a process that already runs torch's threads (a notebook kernel) can dead-lock.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, jobs, chunksize=16)


def _write_one(root: Path, seed: int, job: tuple[str, int]) -> tuple[str, str, list[str]]:
    split, index = job
    rng = generator(seed, split, index)
    vocabulary = load_vocabulary("pascal_part_116")
    scene = render_scene(rng, vocabulary)
    image_id = f"mini_{split}_{index:06d}"
    Image.fromarray(scene.image).save(root / IMAGES / split / f"{image_id}.jpg", quality=int(rng.integers(80, 96)))
    Image.fromarray(scene.object_map).save(root / OBJECTS / split / f"{image_id}.png")
    Image.fromarray(scene.part_map).save(root / PARTS / split / f"{image_id}.png")
    present = [vocabulary.objects[i] for i in np.unique(scene.object_map) if i != vocabulary.ignore_label]
    return image_id, scene_caption(scene, rng), present

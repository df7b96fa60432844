"""What the first two notebooks show: this machine, systems and runs; the miniature, rendered, and its CLIP."""

import os
from dataclasses import replace

import pandas as pd
import torch
from skimage.draw import rectangle_perimeter

from ovparts_lib import inspection
from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from ovparts_lib.data.registry import find_dataset
from ovparts_lib.inspection import Panel
from ovparts_lib.miniature.layout import render_miniature
from ovparts_lib.miniature.miniclip import MiniClipResult, MiniClipSettings, train_miniclip
from ovparts_lib.miniature.naming import close_up_naming, held_out_scenes, patch_naming
from ovparts_lib.miniature.pictures import CaptionedPictures
from ovparts_lib.miniature.region_captions import CaptionedScenes
from ovparts_lib.miniature.shipped import TEST_SEED, load_miniclip, miniclip_facts
from ovparts_lib.models.clip.towers import MINIATURE
from ovparts_lib.runs import find_runs, resolve_path
from ovparts_lib.runs.parameters import MiniatureParameters
from ovparts_lib.runs.provenance import library_versions, machine
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import load_vocabulary
from ovparts_lib.workbook.data import sample_panel
from ovparts_lib.workbook.output import RunOutput

_OUTLINE = torch.tensor([[255], [235], [0]], dtype=torch.uint8)


def render(params: MiniatureParameters) -> PascalPart116:
    """Render the miniature, or reuse what is there, and open it as Pascal-Part-116.

    The other layouts the parameters name are rendered into folders beside ``params.data_root``. A miniature rendered
    with other settings, or by another version of the renderer, is replaced.

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
        how = "found" if summary.reused else "rendered"
        images = f"{summary.train} training and {summary.val} validation images, seed {summary.seed}"
        print(f"{how}: {find_dataset(summary.dataset).title}'s layout, {images}")
    return PascalPart116(root)


def captioned_pictures(count: int, seed: int) -> Panel:
    """Some pictures and captions of the kind that MiniClip is trained on."""
    drawn = CaptionedPictures(count, size=MINIATURE.image_size, seed=seed, progress=False)
    return inspection.caption_grid(list(drawn.pictures.numpy()), [captions[0] for captions in drawn.captions])


def captioned_regions(count: int, seed: int) -> Panel:
    """Some scenes of the kind that MiniClip is trained on, each with the box and a caption of one of its regions."""
    scenes, generator = CaptionedScenes(count, seed=seed, progress=False), torch.Generator().manual_seed(seed)
    pictures, regions, places, boxes = scenes.draw(count, len(scenes.boxes), generator)
    shown = [int((places == place).nonzero()[0]) for place in places.unique()]
    for number in shown:
        left, top, right, bottom = (boxes[number] * pictures.shape[-1]).round().int().tolist()
        outline = rectangle_perimeter((top, left), (bottom - 1, right - 1), shape=pictures.shape[-2:], clip=True)
        pictures[places[number]][(slice(None), *map(torch.from_numpy, outline))] = _OUTLINE
    captions = [scenes.captions[regions[number]][0] for number in shown]
    panel = inspection.caption_grid(list(pictures[places[shown]].numpy()), captions)
    return replace(panel, name="regions", title="Regions and captions", caption="A box in a scene, and what it shows.")


def miniclip(
    path: str, output: RunOutput, *, iterations: int, pictures: int, seed: int, device: torch.device
) -> MiniClipResult:
    """The MiniClip that comes with the package, or one trained anew; written where the systems look for it.

    Args:
        path: where it is written.
        output: of the run.
        iterations: steps of a new one; 0 takes the package's.
        pictures: drawn pictures with captions, and scenes with captioned regions, that a new one learns from.
        seed: of a new one.
        device: it is on.
    """
    size = MINIATURE
    if iterations:
        drawing = {"seed": seed, "processes": os.cpu_count() or 1}
        drawn = CaptionedPictures(pictures, size=size.image_size, **drawing)
        settings = MiniClipSettings(iterations=iterations, seed=seed)
        result = train_miniclip(drawn, CaptionedScenes(pictures, **drawing), size, settings=settings, device=device)
        about = {"steps": iterations, "pictures": pictures}
        steps, seconds = iterations, result.history["seconds"].iloc[-1]
    else:
        result, size = load_miniclip()
        result.clip.to(device)
        facts = miniclip_facts()
        about = {name: facts[name] for name in ("sha256", "commit", "settings")}
        steps, seconds = facts["settings"]["iterations"], facts["seconds"]
    save_clip(result.clip, size, resolve_path(path))
    print(f"{'trained now' if iterations else 'of the package'}: {steps} step{'s' * (steps != 1)}, {seconds:.0f} s")
    output.note(miniclip=about)
    return result


def miniclip_accuracy(result: MiniClipResult, pictures: int) -> Panel:
    """How often MiniClip names a patch, and a close-up, of pictures it has not seen, in percent, beside chance."""
    vocabulary = load_vocabulary("pascal_part_116")
    scenes = held_out_scenes(vocabulary, pictures)
    close_ups = CaptionedPictures(
        pictures, size=MINIATURE.image_size, seed=TEST_SEED, shares={"part": 1.0}, progress=False
    )
    tables = [patch_naming(result.clip, scenes, vocabulary), close_up_naming(result.clip, close_ups, vocabulary)]
    table = pd.concat(tables, keys=["patch", "close-up"], names=["of a"]).reset_index()
    return Panel("miniclip_accuracy", table=table, title="MiniClip: naming patches and close-ups of parts, percent")


def systems_table() -> Panel:
    """The systems there are, with their papers and notebooks."""
    rows = [(each.notebook, each.title, each.paper, each.licence) for each in SYSTEMS.values()]
    table = pd.DataFrame(rows, columns=["notebook", "system", "paper", "licence"])
    return Panel("systems", table=table, title="Systems")


def environment_table(device: torch.device) -> Panel:
    """The device of this run, the machine, and the versions of the libraries that can change a number."""
    facts = {"device": str(device), **machine(), **library_versions()}
    rows = [(key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in facts.items()]
    table = pd.DataFrame(rows, columns=["what", "value"])
    return Panel("environment", table=table, title="This machine")


def runs_table(outputs: str) -> Panel:
    """One row per run folder: setting, run, notebook, state."""
    table = pd.DataFrame(find_runs(resolve_path(outputs)), columns=["setting", "run", "notebook", "state"])
    return Panel("runs_found", table=table, title="Runs", caption="no run yet")


def glance_at_miniature(data_root: str, count: int) -> Panel:
    """Samples of the miniature, or which notebook makes it."""
    root = resolve_path(data_root)
    if not (root / "miniature.json").is_file():
        return Panel("samples_val", title="The miniature", caption="not rendered yet: run 01_miniature")
    return sample_panel(PascalPart116(root), "val", count)

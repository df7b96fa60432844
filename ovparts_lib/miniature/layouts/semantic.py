"""The layouts of the object-level benchmarks: whole objects and stuff, one label map beside each picture."""

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from ovparts_lib.data.readers.semantic import LAYOUTS as PLACES
from ovparts_lib.data.registry import DATASETS
from ovparts_lib.miniature.backgrounds import finish
from ovparts_lib.miniature.canvas import NOTHING, Canvas
from ovparts_lib.miniature.captions import scene_caption
from ovparts_lib.miniature.figure import pose_figure
from ovparts_lib.miniature.layouts.stuff import STUFF, paint_stuff
from ovparts_lib.miniature.layouts.writing import Layout, Written
from ovparts_lib.miniature.scene import FIGURES, SIZES, draw_names, generator, paint_figures
from ovparts_lib.vocabularies import load_vocabulary

# Two benchmarks share a folder, and only one of them can be drawn into it.
NAMES = ("coco_stuff_171", "ade20k_150", "ade20k_847", "pascal_context_59", "pascal_voc_20")
TRAINED = "coco_stuff_171"
# Names that the lists give to what is drawn; the first that a list has is its class there.
SYNONYMS = json.loads(Path(__file__).with_name("synonyms.json").read_text(encoding="utf-8"))


@cache
def classes_drawn(dataset: str) -> dict[str, int]:
    """For each drawn object and kind of stuff the class it has in a dataset; those without one are unlabelled there."""
    vocabulary = load_vocabulary(dataset)
    known: dict[str, int] = {}
    for number, name in enumerate(vocabulary.classes):
        for synonym in (name, *name.split(",")):
            known.setdefault(synonym.strip(), number)
    found = {}
    for name in (*FIGURES, *STUFF):
        match = next((known[word] for word in (name, *SYNONYMS.get(name, ())) if word in known), None)
        if match is not None:
            found[name] = match
    return found


def held_out(dataset: str, split: str) -> frozenset[str]:
    """What is drawn but never labelled: in the training split, the objects whose parts are unseen too."""
    return load_vocabulary("pascal_part_116").unseen_objects if (dataset, split) == (TRAINED, "train") else frozenset()


def write_picture(dataset: str, root: Path, seed: int, split: str, index: int) -> Written:
    """Draw picture ``index`` of a split and write it with its label file; without one where there is no such split."""
    rng, words = generator(seed, split, index), load_vocabulary("pascal_part_116")
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas = Canvas(width, height)
    place, stuff = paint_stuff(canvas, rng)
    names = draw_names(rng, int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])))
    painted = paint_figures(canvas, [pose_figure(FIGURES[name], rng) for name in names], words, rng)

    # Ids of the drawing to those of the dataset.
    classes, ignore = classes_drawn(dataset), load_vocabulary(dataset).ignore_label
    left_out = held_out(dataset, split)
    labels = np.full((height, width), ignore, np.uint16 if ignore > 255 else np.uint8)
    for number, name in enumerate(STUFF):
        labels[(stuff == number) & (painted.object_map == NOTHING)] = classes.get(name, ignore)
    for number, name in enumerate(words.objects):
        labels[painted.object_map == number] = ignore if name in left_out else classes.get(name, ignore)

    picture = finish(canvas.image(), rng)
    image_id, places = f"mini_{split}_{index:06d}", PLACES[dataset]
    name = f"{places.get(split, places['val']).images}/{image_id}.jpg"
    Image.fromarray(picture).save(root / name, quality=int(rng.integers(80, 96)))
    if split in places:
        suffix = ".tif" if ignore > 255 else ".png"
        Image.fromarray(labels).save(root / places[split].labels / f"{image_id}{suffix}")
    present = tuple(load_vocabulary(dataset).classes[i] for i in np.unique(labels) if i != ignore)
    return Written(split, image_id, name, scene_caption(painted.things(1), place, rng), present, labels.shape)


def _folders(dataset: str) -> tuple[str, ...]:
    places = PLACES[dataset].values()
    return tuple(dict.fromkeys(folder for place in places for folder in (place.images, place.labels)))


LAYOUTS = {name: Layout(DATASETS[name].folder, _folders(name), (), partial(write_picture, name)) for name in NAMES}

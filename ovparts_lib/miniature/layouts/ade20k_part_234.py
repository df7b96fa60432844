"""The layout of ADE20K-Part-234: 16-bit part maps, and object instances in COCO files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ovparts_lib.data.coco_writing import annotation
from ovparts_lib.miniature.layouts.counterparts import TABLES, draw, drawn_words
from ovparts_lib.miniature.layouts.writing import Layout, Written, segmentation, write_annotations
from ovparts_lib.miniature.scene import generator
from ovparts_lib.vocabularies import load_vocabulary

DATASET = "ade20k_part_234"
IMAGES, PARTS = "images", "annotations_detectron2_part"
FOLDERS = {"train": "training", "val": "validation"}


def write_picture(root: Path, seed: int, split: str, index: int) -> Written:
    """Draw picture ``index`` of a split and write it with its part map; its instances go into the COCO file later."""
    rng, vocabulary = generator(seed, split, index), load_vocabulary(DATASET)
    drawing = draw(rng, DATASET, list(TABLES[DATASET]))
    image_id, folder = f"mini_{split}_{index:06d}", FOLDERS[split]
    name = f"{IMAGES}/{folder}/{image_id}.jpg"
    Image.fromarray(drawing.image).save(root / name, quality=int(rng.integers(80, 96)))
    part_map = drawn_words(DATASET).table(vocabulary)[drawing.part_map].astype(np.uint16)
    Image.fromarray(part_map).save(root / PARTS / folder / f"{image_id}.png")
    annotations = tuple(
        annotation(vocabulary.object_id(owner), mask, segmentation(mask, index + number))
        for number, (owner, mask) in enumerate(drawing.instances)
    )
    objects = tuple(sorted({owner for owner, _ in drawing.instances}))
    return Written(split, image_id, name, drawing.caption, objects, part_map.shape, annotations)


def finish(root: Path, pictures: Sequence[Written]) -> None:
    """Write the instances of both splits."""
    for split in FOLDERS:
        of_split = [picture for picture in pictures if picture.split == split]
        write_annotations(root / f"ade20k_instance_{split}.json", of_split, load_vocabulary(DATASET).objects)


LAYOUT = Layout(
    released_folder="ADE20KPart234",
    folders=tuple(f"{folder}/{split}" for folder in (IMAGES, PARTS) for split in FOLDERS.values()),
    classes=load_vocabulary(DATASET).objects_with_parts,
    write=write_picture,
    finish=finish,
)

"""The layout of Pascal-Part-116: 8-bit object and part maps as PNG files beside the pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from ovparts_lib.miniature.captions import scene_caption
from ovparts_lib.miniature.layouts.writing import Layout, Written
from ovparts_lib.miniature.scene import generator, render_scene
from ovparts_lib.vocabularies import load_vocabulary

IMAGES, OBJECTS, PARTS = "images", "annotations_detectron2_obj", "annotations_detectron2_part"


def write_picture(root: Path, seed: int, split: str, index: int) -> Written:
    """Draw picture ``index`` of a split and write it with its two label files."""
    rng = generator(seed, split, index)
    vocabulary = load_vocabulary("pascal_part_116")
    scene = render_scene(rng, vocabulary)
    image_id = f"mini_{split}_{index:06d}"
    name = f"{IMAGES}/{split}/{image_id}.jpg"
    Image.fromarray(scene.image).save(root / name, quality=int(rng.integers(80, 96)))
    Image.fromarray(scene.object_map).save(root / OBJECTS / split / f"{image_id}.png")
    Image.fromarray(scene.part_map).save(root / PARTS / split / f"{image_id}.png")
    present = (vocabulary.objects[i] for i in np.unique(scene.object_map) if i != vocabulary.ignore_label)
    return Written(
        split, image_id, name, scene_caption(scene.things, scene.place, rng), tuple(present), scene.part_map.shape
    )


LAYOUT = Layout(
    released_folder="PascalPart116",
    folders=tuple(f"{folder}/{split}" for folder in (IMAGES, OBJECTS, PARTS) for split in ("train", "val")),
    classes=load_vocabulary("pascal_part_116").objects_with_parts,
    write=write_picture,
)

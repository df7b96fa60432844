"""A tiny tree of drawn pictures in the released layout of Pascal-Part-116."""

from pathlib import Path

import numpy as np
from PIL import Image

from ovparts_lib.vocabularies import load_vocabulary

VOC = load_vocabulary("pascal_part_116")
GOLDEN = Path(__file__).parents[1] / "golden" / "data"

# image id -> (height, width), [(object, parts from left to right)]; each object takes a band of rows
PICTURES = {
    "train": {
        "2008_000003": ((40, 60), [("aeroplane", ["body", "wheel"])]),
        "2008_000007": ((52, 36), [("dog", ["head", "torso"]), ("person", ["hair", "torso"])]),
        "2008_000009": ((40, 48), [("dog", ["head", "tail"])]),  # unseen only
        "2009_000011": ((44, 44), [("chair", [])]),  # no part at all
        "2009_000012": ((30, 70), [("cat", ["head", "tail"]), ("bus", ["wheel"])]),
    },
    "val": {
        "2010_000001": ((33, 47), [("dog", ["head", "torso"]), ("person", ["hair"]), ("chair", [])]),
        "2010_000002": ((40, 50), [("sofa", [])]),
        "2010_000003": ((36, 36), [("car", ["wheel", "door"])]),
    },
}


def paint(size, objects):
    """Object map and part map, uint8; the last columns of every band are the object without part."""
    height, width = size
    object_map, part_map = np.full(size, 255, np.uint8), np.full(size, 255, np.uint8)
    band = height // (len(objects) + 1)
    for row, (name, parts) in enumerate(objects):
        rows = slice(row * band, (row + 1) * band)
        object_map[rows, : width - 4] = VOC.object_id(name)
        step = (width - 8) // max(len(parts), 1)
        for column, part in enumerate(parts):
            part_map[rows, column * step : (column + 1) * step] = VOC.part_id(f"{name}'s {part}")
    return object_map, part_map


def picture(size, seed):
    """A smooth random RGB picture (h, w, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=95) if path.suffix == ".jpg" else Image.fromarray(array).save(path)


def write_layout(root):
    for split, images in PICTURES.items():
        for seed, (image_id, (size, objects)) in enumerate(images.items()):
            object_map, part_map = paint(size, objects)
            save(root / "images" / split / f"{image_id}.jpg", picture(size, seed))
            save(root / "annotations_detectron2_obj" / split / f"{image_id}.png", object_map)
            save(root / "annotations_detectron2_part" / split / f"{image_id}.png", part_map)
    (root / "train_16shot.json").write_text(
        '[{"file_name": "datasets/PascalPart116/images/train/2008_000007.jpg"},'
        ' {"file_name": "datasets/PascalPart116/images/train/2008_000003.jpg"}]'
    )
    return root

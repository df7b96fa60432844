"""A tiny tree of drawn pictures in the released layout of ADE20K-Part-234."""

import json

import numpy as np

from ovparts_lib.data.coco_writing import encode_rle
from ovparts_lib.vocabularies import load_vocabulary
from tests.data.released_layout import picture, save

VOC = load_vocabulary("ade20k_part_234")
FOLDERS = {"train": "training", "val": "validation"}

# (height, width), then (object, box top left bottom right, form of the segmentation, parts side by side in the box)
PICTURES = {
    "train": {
        "ADE_train_00000001": (
            (40, 60),
            [
                ("person", (2, 4, 30, 24), "polygon", ["head", "torso"]),
                ("bus", (10, 16, 36, 56), "rle", ["wheel", "door"]),  # unseen, in front of the person
            ],
        ),
        "ADE_train_00000002": (
            (52, 36),
            [
                ("lamp", (4, 4, 40, 16), "counts", ["shade", "tube"]),
                ("stool", (20, 18, 48, 34), "rle", ["leg", "seat"]),  # unseen
                ("lamp", (42, 2, 50, 16), "polygon", []),  # no part
            ],
        ),
        "ADE_train_00000003": ((30, 30), []),
    },
    "val": {
        "ADE_val_00000001": (
            (33, 47),
            [
                ("person", (2, 2, 30, 20), "polygon", ["head"]),
                ("person", (4, 12, 31, 44), "counts", ["torso", "leg"]),
                ("bus", (20, 30, 32, 46), "rle", []),  # covers some of a person's leg
            ],
        ),
    },
}


def box_mask(size, box):
    mask = np.zeros(size, bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def segmentation(size, box, form):
    top, left, bottom, right = box
    if form == "polygon":
        return [[left, top, right, top, right, bottom, left, bottom]]
    if form == "rle":
        return encode_rle(box_mask(size, box))
    flat = box_mask(size, box).T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(size), "counts": np.diff(changes, prepend=0, append=flat.size).tolist()}


def part_map(size, objects):
    parts = np.full(size, 65535, np.uint16)
    for name, (top, left, bottom, right), _, names in objects:
        step = (right - left) // max(len(names), 1)
        for column, part in enumerate(names):
            parts[top:bottom, left + column * step : left + (column + 1) * step] = VOC.part_id(f"{name}'s {part}")
    return parts


def annotations(images):
    """The content of an instance file; ids do not follow the order of the list."""
    entries, instances = [], []
    for number, (name, (size, objects)) in enumerate(images.items()):
        entries.append({"id": number + 1, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]})
        for owner, box, form, _ in objects:
            top, left, bottom, right = box
            instances.append(
                {
                    "id": len(instances) + 11,
                    "image_id": number + 1,
                    "category_id": VOC.object_id(owner),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                    "segmentation": segmentation(size, box, form),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(VOC.objects)]
    return {"images": entries[::-1], "annotations": instances, "categories": categories}


def write_layout(root):
    for name, images in PICTURES.items():
        for seed, (image_id, (size, objects)) in enumerate(images.items()):
            save(root / "images" / FOLDERS[name] / f"{image_id}.jpg", picture(size, seed + 10 * len(name)))
            save(root / "annotations_detectron2_part" / FOLDERS[name] / f"{image_id}.png", part_map(size, objects))
        (root / f"ade20k_instance_{name}.json").write_text(json.dumps(annotations(images)))
    shots = [{"file_name": "datasets/ADE20KPart234/images/training/ADE_train_00000002.jpg"}]
    (root / "train_16shot.json").write_text(json.dumps(shots))
    return root

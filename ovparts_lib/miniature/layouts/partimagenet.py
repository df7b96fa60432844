"""The layouts of PartImageNet: one object a picture, named by its ImageNet synset, and part masks in COCO files.

The 40-object selection is written as it is downloaded: annotation files below ``annotations``, and synsets that are not
among the 40 objects. The OOD one has one folder of pictures for each synset; seen objects are in ``train`` and unseen
ones in ``val`` only.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from ovparts_lib.data.coco_writing import annotation
from ovparts_lib.data.partimagenet_facts import PART_CATEGORIES, SYNSET_FILE, SYNSETS
from ovparts_lib.miniature.layouts.counterparts import TABLES, draw, drawn_words
from ovparts_lib.miniature.layouts.writing import Layout, Written, segmentation, write_annotations
from ovparts_lib.miniature.scene import generator
from ovparts_lib.vocabularies import load_vocabulary

SPLITS = ("train", "val")


def write_picture(dataset: str, root: Path, seed: int, split: str, index: int) -> Written:
    """Draw picture ``index`` of a split and write it; its part masks go into the COCO file later."""
    rng, words = generator(seed, split, index), drawn_words(dataset)
    drawing = draw(rng, dataset, _figures(dataset, split), most=1)
    owner, _ = drawing.instances[0]
    synset = next(synset for synset, name in SYNSETS.items() if name == owner)
    image_id = f"{synset}_{2 * index + SPLITS.index(split)}"  # as in ImageNet, no number is in both splits
    folder = f"images/{split}" + (f"/{synset}" if dataset == "partimagenet_ood" else "")
    name = f"{folder}/{image_id}.JPEG"
    (root / folder).mkdir(exist_ok=True)
    Image.fromarray(drawing.image).save(root / name, "JPEG", quality=int(rng.integers(80, 96)))
    annotations = []
    for part_id in words.parts_of(words.object_id(owner)):
        mask = drawing.part_map == part_id
        if mask.any():
            category = part_category(dataset, owner, words.pairs[part_id][1])
            annotations.append(annotation(category, mask, segmentation(mask, index + len(annotations))))
    return Written(split, image_id, name, drawing.caption, (owner,), drawing.part_map.shape, tuple(annotations))


def part_category(dataset: str, owner: str, part: str) -> int:
    """Id of the part category (``Quadruped Head``) of an object's part: of the first family with the object's parts."""
    words, families = drawn_words(dataset), {}
    for number, name in enumerate(PART_CATEGORIES):
        family, _, generic = name.partition(" ")
        families.setdefault(family, {})[generic.lower()] = number
    drawn = {words.pairs[i][1] for i in words.parts_of(words.object_id(owner))}
    return next(parts for parts in families.values() if drawn <= set(parts))[part]


def finish(dataset: str, root: Path, pictures: Sequence[Written]) -> None:
    """Write the annotation files of both splits, and an excerpt of ImageNet's synset list."""
    for split in SPLITS:
        of_split = [picture for picture in pictures if picture.split == split]
        folder = root / "annotations" / split if dataset == "partimagenet_seg" else root
        write_annotations(folder / f"{split}.json", of_split, PART_CATEGORIES)
    lines = [f"{synset} {name}\n" for synset, name in SYNSETS.items()]
    (root / SYNSET_FILE).write_text("".join(lines), encoding="utf-8")


def _figures(dataset: str, split: str) -> list[str]:
    """What is drawn in a split."""
    if dataset == "partimagenet_seg":
        return list(TABLES[dataset])
    unseen = load_vocabulary(dataset).unseen_objects
    return [figure for figure, entry in TABLES[dataset].items() if (entry.name in unseen) == (split == "val")]


def _layout(dataset: str, released_folder: str) -> Layout:
    return Layout(
        released_folder=released_folder,
        folders=tuple(f"images/{split}" for split in SPLITS),
        classes=load_vocabulary(dataset).objects_with_parts,
        write=partial(write_picture, dataset),
        finish=partial(finish, dataset),
    )


SEG = _layout("partimagenet_seg", "PartImageNet")
OOD = _layout("partimagenet_ood", "PartImageNet_OOD")

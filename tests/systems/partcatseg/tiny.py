"""PartCATSeg so small that a test of its behaviour takes milliseconds."""

from dataclasses import replace

import torch

from ovparts_lib.systems.partcatseg.model import PartCatseg, PartCatsegSize
from tests.systems.catseg.tiny import TINY_CATSEG
from tests.systems.tiny import VOCABULARY, random_batch

TINY_PARTCATSEG = PartCatsegSize(
    clip=TINY_CATSEG.clip,
    inputs=TINY_CATSEG.inputs,
    guidance=TINY_CATSEG.guidance,
    aggregator=replace(TINY_CATSEG.aggregator, class_attention="query"),
    templates=TINY_CATSEG.templates,
)


def tiny_partcatseg(seed=0, size=TINY_PARTCATSEG, **options):
    torch.manual_seed(seed)
    return PartCatseg(size, **options)


def labelled_batch(vocabulary=VOCABULARY, seed=0):
    """A batch whose object maps follow from the part maps, but for some pixels of objects without a part label."""
    batch = random_batch(vocabulary, seed)
    owners = torch.full((vocabulary.ignore_label + 1,), vocabulary.ignore_label)
    owners[: len(vocabulary.parts)] = torch.tensor(vocabulary.part_to_object)
    batch["object_maps"] = [owners[part_map] for part_map in batch["part_maps"]]
    for object_map in batch["object_maps"]:
        object_map[:10] = 0
    for part_map in batch["part_maps"]:
        part_map[:10] = vocabulary.ignore_label
    return batch

"""CLIPSeg so small that a test of its behaviour takes milliseconds, and what to feed it."""

import torch

from ovparts_lib.models.clip.towers import ClipSize
from ovparts_lib.systems.clipseg.model import Clipseg
from ovparts_lib.systems.query_segmenter import QuerySize
from ovparts_lib.vocabularies import PartVocabulary

TINY_CLIP = ClipSize("tiny", 16, 32, 8, 32, 4, 2, 16, 2, 2)
TINY = QuerySize(TINY_CLIP, image_size=48, reduce_dim=8, extract_layers=(0, 1, 2), decoder_heads=2, decoder_mlp=16)
VOCABULARY = PartVocabulary.from_words({"dog": ["head", "tail"], "car": ["wheel", "licence plate"], "bird": ["wing"]})


def tiny_clipseg(seed=0, **options):
    torch.manual_seed(seed)
    return Clipseg(TINY, **options)


def random_image(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def random_batch(vocabulary=VOCABULARY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    part_maps = [torch.randint(0, len(vocabulary.parts) + 1, (60, 80), generator=generator) for _ in range(2)]
    part_maps = [
        part_map.masked_fill(part_map == len(vocabulary.parts), vocabulary.ignore_label) for part_map in part_maps
    ]
    images = [random_image(60, 80, seed + 1), random_image(30, 40, seed + 2)]
    return {"images": images, "part_maps": part_maps, "image_ids": ["first", "second"], "vocabulary": vocabulary}

"""ZSSeg+ so small that a test of its behaviour takes milliseconds."""

import torch

from ovparts_lib.models.backbones.resnet import ResNetSize
from ovparts_lib.models.clip.towers import ClipSize
from ovparts_lib.systems.zsseg_plus.model import ZssegPlus, ZssegPlusSize
from ovparts_lib.vocabularies import PartVocabulary

CLIP = ClipSize("tiny", 16, 32, 8, 32, 2, 2, 16, 2, 2, vocab_size=49408)
TINY_ZSSEG_PLUS = ZssegPlusSize(
    clip=CLIP,
    backbone=ResNetSize((1, 1, 1, 1), width=4, multi_grid=(1,)),
    width=16,
    groups=4,
    queries=6,
    layers=2,
    heads=2,
    hidden=16,
    class_hidden=16,
    shortest_edge=64,
    longest_edge=96,
    crop_side=32,
)
VOCABULARY = PartVocabulary(
    "tiny",
    ("chair's leg", "chair's seat", "armchair's arm", "armchair's leg", "dog's head", "dog's tail"),
    ("chair", "armchair", "dog", "sky"),
    ("dog",),
)


def tiny_zsseg_plus(seed=0, size=TINY_ZSSEG_PLUS, **options):
    """At random weights, with queries and prompts that differ from each other."""
    torch.manual_seed(seed)
    model = ZssegPlus(size, **options)
    with torch.no_grad():
        model.transformer_decoder.query_embed.weight.mul_(20)
        model.prompt_learner.fuse_weight.fill_(0.6)
    return model.eval()

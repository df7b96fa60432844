"""OVSeg so small that a test of its behaviour takes milliseconds."""

import torch

from ovparts_lib.models.backbones.resnet import ResNetSize
from ovparts_lib.models.backbones.swin import SwinSize
from ovparts_lib.systems.ovseg.model import Ovseg, OvsegSize
from tests.systems.tiny import TINY_CLIP

FACTS = {
    "width": 16,
    "groups": 4,
    "queries": 6,
    "layers": 2,
    "heads": 2,
    "hidden": 16,
    "class_hidden": 16,
    "prompt_depth": 2,
    "templates": "miniature",
    "shortest_edge": 48,
    "longest_edge": 96,
}
TINY_OVSEG = OvsegSize(TINY_CLIP, SwinSize(8, (1, 1, 1, 1), (1, 1, 2, 2), window=2, drop_path=0.1), **FACTS)
TINY_RESNET = OvsegSize(TINY_CLIP, ResNetSize((1, 1, 1, 1), 8, "deeplab", (1,)), **FACTS)


def tiny_ovseg(seed=0, size=TINY_OVSEG, **options):
    """A model whose queries differ from one another."""
    torch.manual_seed(seed)
    model = Ovseg(size, **options)
    with torch.no_grad():
        model.mask_prompt.normal_()
        model.transformer_decoder.query_embed.weight.mul_(8)
        model.transformer_decoder.mask_embed.layers[-1].weight.mul_(8)
    return model

"""CATSeg so small that a test of its behaviour takes milliseconds."""

import torch

from ovparts_lib.models.backbones.guidance import GuidanceSize
from ovparts_lib.models.cost_aggregation import AggregatorSize
from ovparts_lib.models.cost_aggregation.inputs import InputSize
from ovparts_lib.systems.catseg.model import Catseg, CostSize
from tests.systems.tiny import TINY_CLIP

AGGREGATOR = AggregatorSize(
    prompts=3,
    text_dim=16,
    dim=16,
    layers=2,
    heads=2,
    window=2,
    kernel=3,
    guidance_dim=8,
    text_guidance_dim=8,
    decoder_dims=(16, 8),
    decoder_guidance_dims=(4, 4),
)
TINY_CATSEG = CostSize(
    clip=TINY_CLIP,
    inputs=InputSize(32, shortest_edge=48, longest_edge=96, divisor=32),
    guidance=GuidanceSize("small", 32, channels=(8, 8, 4), clip_layer=2),
    aggregator=AGGREGATOR,
    templates="miniature",
)


def tiny_catseg(seed=0, size=TINY_CATSEG, **options):
    torch.manual_seed(seed)
    return Catseg(size, **options)

"""Blocks of cost-aggregation segmenters (CAT-Seg and its descendants), which CATSeg and PartCATSeg compose.

The cost volume of an image and a list of texts, one map per text, is embedded, refined by layers that attend among
positions (Swin) and among texts (class attention), and decoded to one logit map per text. Maps are laid out
``(b, t, h, w, c)`` throughout: image, text, position, channel.
Source: Cho et al., "CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation", CVPR 2024, in the form of its
first release, on which OV-PARTS and PartCATSeg are built.
"""

from ovparts_lib.models.cost_aggregation.aggregator import (
    AggregatorLayer,
    AggregatorSize,
    AppearanceGuidance,
    ImageGuidance,
    TextGuidance,
    aggregate,
)
from ovparts_lib.models.cost_aggregation.chunks import Chunks
from ovparts_lib.models.cost_aggregation.class_attention import ClassAggregation
from ovparts_lib.models.cost_aggregation.cost_volume import CostEmbedding, cost_volume, mean_cost
from ovparts_lib.models.cost_aggregation.decoder import GuidedDecoder
from ovparts_lib.models.cost_aggregation.spatial import SpatialAggregation

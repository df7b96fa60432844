"""Losses of PartCLIPSeg: binary cross-entropies over regions, a few channels at a time, and attention control.

Attention control (how much the parts of an object overlap in attention, and how strong each is): Choi et al.,
"Understanding Multi-Granularity for Open-Vocabulary Part Segmentation", NeurIPS 2024, section 3.4, and the released
code. What both losses read of the attention of a query is one map: the mean of the rows that belong to one part's
tokens. So only those rows of the softmax are computed, from the tokens that entered the decoder's layer; the
(tokens x tokens) maps of all queries and heads, as the released code keeps them, never exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ovparts_lib.models.attention_overlap import memberships, overlap, strength
from ovparts_lib.systems.part_queries import PartQueries
from ovparts_lib.systems.partclipseg.options import AttentionRule, LossMean

Terms = tuple[Tensor, Tensor, int]  # of one image: separation, enhancement, and how many objects they are sums over


@dataclass(frozen=True)
class PartTargets:
    """Labels of a batch at the logits' size, (b, s, s).

    Attributes:
        parts: int64, position of the object-specific part among those decoded, -1 for none.
        generics: int64, position of its generic part among the queries, -1 for none.
        objects: int64, position of the object among the queries, -1 for none and for objects without parts.
    """

    parts: Tensor
    generics: Tensor
    objects: Tensor

    def regions(self) -> Tensor:
        """Float (b, 3, s, s): part labelled; no object that has parts; everywhere."""
        labelled = self.parts >= 0
        return torch.stack([labelled, self.objects < 0, torch.ones_like(labelled)], dim=1).float()


def region_sums(logits: Tensor, positives: Tensor, first: int, regions: Tensor) -> Tensor:
    """Binary cross-entropy summed over channels and over the pixels of each region.

    Args:
        logits: (b, m, h, w), channels ``first`` to ``first + m - 1``.
        positives: int64 (b, h, w), the channel that is positive at a pixel, of these or of others.
        first: number of the first channel.
        regions: float (b, r, h, w), 1 inside.

    Returns:
        float32 (b, r).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        place = positives - first
        here = (place >= 0) & (place < logits.shape[1])
        positive = logits.gather(1, place.clamp(0, logits.shape[1] - 1).unsqueeze(1))[:, 0]
        # -log sigmoid(z) = softplus(z) - z where positive, -log(1 - sigmoid(z)) = softplus(z) elsewhere
        terms = F.softplus(logits).sum(1) - positive * here
        return torch.einsum("bhw,brhw->br", terms, regions)


def region_mean(sums: Tensor, pixels: Tensor, channels: int, over: LossMean) -> Tensor:
    """Mean over the pixels of a region and its channels, from sums per image.

    Args:
        sums: (b,).
        pixels: (b,), size of the region in each image.
        channels: how many were summed over.
        over: ``"image"``: the mean of each image, then the mean over images; ``"batch"``: over all pixels at once.

    Returns:
        scalar; a region without pixels counts 0.
    """
    if over == "batch":
        sums, pixels = sums.sum(0, keepdim=True), pixels.sum(0, keepdim=True)
    return (sums / (pixels.clamp(min=1) * channels)).mean()


def part_object_loss(sums: Tensor, sizes: Tensor, has_object: Tensor, channels: int, over: LossMean) -> Tensor:
    """The object-specific parts' term: mean over labelled pixels plus mean over pixels outside objects.

    Args:
        sums: (b, 3), of the regions of :meth:`PartTargets.regions`.
        sizes: (b, 3), their pixels.
        has_object: bool (b,), whether the image shows an object that has parts; without one (in the image, or in the
            batch), the second mean is left out, as released.
        channels: parts and background.
        over: see :func:`region_mean`.
    """
    shown = has_object.any().expand_as(has_object) if over == "batch" else has_object
    labelled = region_mean(sums[:, 0], sizes[:, 0], channels, over)
    return labelled + region_mean(sums[:, 1] * shown, sizes[:, 1], channels, over)


def pooled_attention(attention: nn.MultiheadAttention, tokens: Tensor, rows: Tensor) -> Tensor:
    """How much the given tokens attend to every patch, in sum: the rows of the softmax that a part needs.

    Args:
        attention: projections of the layer.
        tokens: (q, t, width), what entered the layer for q queries; token 0 is the class token.
        rows: int64 (r,), tokens that ask, 1..t-1.

    Returns:
        float32 (t - 1,): mean over the q queries and the heads of the sum over ``rows``; the class token's column,
        which takes its share of every row, is left out.
    """
    width = tokens.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = F.linear(tokens[:, rows], weight[:width], bias[:width])
    key = F.linear(tokens, weight[width : 2 * width], bias[width : 2 * width])
    query, key = (rearrange(part, "q t (h d) -> q h t d", h=attention.num_heads) for part in (query, key))
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores.float().softmax(-1).mean((0, 1)).sum(0)[1:]


def attention_terms(
    attention: nn.MultiheadAttention,
    tokens: Tensor,
    queries: PartQueries,
    part_map: Tensor,
    object_map: Tensor,
    *,
    pixel_parts: Tensor,
    pixel_objects: Tensor,
    threshold: float,
    rule: AttentionRule,
) -> Terms:
    """Separation and enhancement of one image, summed over its objects.

    ``"corrected"``: every object with labelled patches, its own parts, each part's rows averaged; a patch is claimed
    with a probability, so that separation has a gradient. ``"released"``: rows divided by the number of all patches, so
    that enhancement stays near 1; all parts of the image count for every object; the object with the largest id is left
    out where no pixel is without object; the threshold is hard, so that separation has no gradient.

    Args:
        attention: projections of the decoder's layer.
        tokens: (n, t, width), what entered that layer for all n queries of the image.
        queries: which of them each part is made of.
        part_map: int64 (gh, gw), part at each patch, as its place among the parts of ``queries``; -1 for none.
        object_map: int64 (gh, gw), object at each patch, as its place among the queries; -1 for none.
        pixel_parts: the parts that occur in the image at the logits' size, ascending, -1 first if some pixel has none.
        pixel_objects: the objects that occur there, in the same way.
        threshold: 0..1.
        rule: see above.

    Returns:
        Sum of the overlaps, sum of the lacks of strength, number of objects.
    """
    released = rule == "released"
    zero = tokens.new_zeros((), dtype=torch.float32)
    objects = pixel_objects.tolist()
    objects = objects[1:] if objects[:1] == [-1] else objects[:-1] if released else objects
    maps: dict[int, Tensor] = {}
    for part in pixel_parts[pixel_parts >= 0].tolist():
        rows = 1 + (part_map.flatten() == part).nonzero()[:, 0]
        if released or len(rows):
            pair = torch.stack([queries.part_queries[part], queries.object_queries[part]])
            pooled = pooled_attention(attention, tokens[pair], rows)
            maps[part] = (pooled / (part_map.numel() if released else len(rows))).view_as(part_map)
    separation, enhancement, counted = zero, zero, 0
    for number in objects:
        own = [part for part in maps if released or int(queries.object_queries[part]) == number]
        if not own:
            continue
        stacked = torch.stack([maps[part] for part in own])
        claims = memberships(stacked, object_map == number, threshold, soft=not released)
        separation = separation + overlap(claims)
        enhancement = enhancement + 1 - strength(stacked).amin().clamp(max=1.0)
        counted += 1
    return separation, enhancement, counted


def mean_attention_terms(found: Sequence[Terms], over: LossMean, rule: AttentionRule) -> tuple[Tensor, Tensor]:
    """Separation and enhancement of a batch from those of its images.

    Args:
        found: what :func:`attention_terms` returned for each image.
        over: ``"image"``: each image's mean over its objects, then the mean over images; ``"batch"``: the mean over all
            objects, which the ``"released"`` rule divides by the number of images once more.
        rule: as there.
    """
    *terms, counts = zip(*found, strict=True)
    if over == "image":
        return tuple(
            torch.stack([one / max(k, 1) for one, k in zip(each, counts, strict=True)]).mean() for each in terms
        )
    divisor = max(sum(counts), 1) * (len(found) if rule == "released" else 1)
    return tuple(torch.stack(each).sum() / divisor for each in terms)

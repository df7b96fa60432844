"""From an image and its objects to scores: both stages, one object at a time, what they share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.images import LabelResize, resize_labels
from ovparts_lib.models.maskformer.matching import joined_inputs
from ovparts_lib.systems.proposals import ProposalMaps
from ovparts_lib.systems.scores import Request, Scores
from ovparts_lib.systems.zsseg_plus.ensemble import allowed_classes, ensembled, region_map
from ovparts_lib.systems.zsseg_plus.objects import find_objects
from ovparts_lib.systems.zsseg_plus.proposals import (
    DIVISOR,
    ImageFeatures,
    class_map,
    joined,
    proposal_maps,
    region_maps,
)
from ovparts_lib.systems.zsseg_plus.regions import cut_object, dense_features, pool_regions, squashed
from ovparts_lib.vocabularies import PartVocabulary

if TYPE_CHECKING:
    from ovparts_lib.systems.zsseg_plus.model import ZssegPlus


@dataclass(frozen=True)
class PreparedImage:
    """An image resized for stage 1, with everything that does not depend on an object.

    Attributes:
        pixels: uint8 (3, h, w) RGB.
        features: of this one image.
        padded_size: (hp, wp).
        image_size: (height, width) of the image as it was given.
    """

    pixels: Tensor
    features: ImageFeatures
    padded_size: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return tuple(self.pixels.shape[-2:])


@dataclass(frozen=True)
class Naming:
    """What CLIP says of an object's regions.

    Attributes:
        region_ids: labels of the regions that meet the object, ascending.
        probabilities: float32 (len(region_ids), k), of the k classes that compete.
        box: x0, y0, x1, y1 of the object's crop, the last two exclusive.
    """

    region_ids: tuple[int, ...]
    probabilities: Tensor
    box: tuple[int, int, int, int]


def prepare_image(model: ZssegPlus, image: Tensor) -> PreparedImage:
    """Resize an image, uint8 (3, H, W) RGB, and encode it for stage 1."""
    pixels = model.resized(image).to(model.device)
    inputs = model.padded([pixels])
    return PreparedImage(pixels, model.encode_images(inputs), tuple(inputs.shape[-2:]), tuple(image.shape[-2:]))


def resized_mask(region: ObjectRegion, image: PreparedImage, rule: LabelResize) -> Tensor:
    """A region's mask at the size of stage 1, bool (h, w); a region between the sampled pixels keeps those it touches.

    Raises:
        ValueError: the region is empty or does not fit the image.
    """
    whole = torch.zeros(image.image_size, dtype=torch.uint8)
    if whole[region.box].shape != region.mask.shape or not region.mask.any():
        raise ValueError(
            f"a region of {tuple(region.mask.shape)} pixels at row {region.top}, column {region.left} "
            f"{'does not fit' if region.mask.any() else 'is empty in'} an image of {image.image_size} (height, width)"
        )
    whole[region.box] = region.mask.to(whole)
    mask = resize_labels(whole, image.size, rule) > 0
    if not mask.any():
        mask = F.adaptive_max_pool2d(whole[None].float(), image.size)[0] > 0
    return mask.to(image.pixels.device)


def name_regions(
    model: ZssegPlus,
    pixels: Tensor,
    labels: Tensor,
    object_mask: Tensor,
    texts: Tensor,
    vocabulary: PartVocabulary,
    allowed: Sequence[int],
) -> Naming:
    """Stage 2: one dense CLIP pass over the object's crop names every region inside the object.

    Args:
        model: has CLIP and the prompts.
        pixels: uint8 (3, h, w) RGB.
        labels: int64 (h, w), which region a pixel belongs to.
        object_mask: bool (h, w).
        texts: (classes, embed_dim).
        vocabulary: of the classes.
        allowed: the classes that compete.
    """
    crop = cut_object(pixels, object_mask, labels, model.size.crop_side)
    region_ids = tuple(labels[object_mask].unique().tolist())
    features = pool_regions(dense_features(model.clip, crop.pixels[None])[0], crop, region_ids)
    learner, competing = model.prompt_learner, texts[list(allowed)]
    if learner.conditional:  # texts that depend on the object
        pairs = [vocabulary.pairs[number] for number in allowed]
        competing = learner.encode(model.clip, pairs, features.whole[None])[0]
    logits = model.size.clip.temperature * features.fused(learner.fuse_weight) @ competing.T
    return Naming(region_ids, logits.softmax(-1), crop.box)


def score_object(
    model: ZssegPlus,
    image: PreparedImage,
    logits: Tensor,
    mask_logits: Tensor,
    stage2: tuple[Tensor, int],
    texts: Tensor,
    request: Request,
) -> tuple[Tensor, dict[str, ProposalMaps]]:
    """Both stages on one object.

    Args:
        model: the system.
        image: the object's.
        logits: (queries, classes + 1), of stage 1.
        mask_logits: (queries, hp / 4, wp / 4), of stage 1.
        stage2: mask, bool (h, w), and class of the object that stage 2 is told.
        texts: (classes, embed_dim).
        request: which classes are scored.

    Returns:
        float32 (len(class_ids), h, w), 0 for classes that may not be found on the object; and the maps.
    """
    object_mask, object_id = stage2
    vocabulary, class_ids = request.vocabulary, request.class_ids
    allowed = allowed_classes(vocabulary, object_id, model.class_rule)
    probabilities = logits.softmax(-1)[:, :-1]
    # semantic inference: which class wins where makes the regions
    kept = [number for number in class_ids if model.ensemble == "stage1" or number in allowed]
    labels, scores = class_map(probabilities, mask_logits, image.size, image.padded_size, kept)
    naming = None
    if model.ensemble != "stage1":
        # CLIP names the regions, and both stages are joined
        naming = name_regions(model, image.pixels, labels, object_mask, texts, vocabulary, allowed)
        columns = [allowed.index(number) for number in kept]
        clip = region_map(labels, naming.region_ids, naming.probabilities[:, columns])
        scores = join_stages(model, scores, clip, vocabulary, kept)
    values = scores
    if len(kept) < len(class_ids):
        values = scores.new_zeros(len(class_ids), *image.size)
        values[[class_ids.index(number) for number in kept]] = scores
    if not request.inspected:
        return values, {}
    proposals = proposal_maps(image.pixels, probabilities, mask_logits, image.padded_size, vocabulary.parts)
    regions = region_maps(proposals, labels, object_mask)
    if naming is not None:
        clip = torch.zeros_like(regions.proposals)
        clip[:, list(allowed)] = naming.probabilities
        everything = range(len(vocabulary.parts))
        combined = join_stages(model, regions.proposals.T[..., None], clip.T[..., None], vocabulary, everything)
        regions = replace(
            regions,
            clip=clip,
            valid=torch.ones(len(clip), dtype=torch.bool, device=clip.device),
            boxes=torch.tensor([naming.box] * len(clip), device=clip.device),
            combined=combined[..., 0].T,
        )
    return values, {"proposals": proposals, "regions": regions}


def join_stages(
    model: ZssegPlus, stage1: Tensor, clip: Tensor, vocabulary: PartVocabulary, class_ids: Sequence[int]
) -> Tensor:
    """The ensemble of maps (k, h, w) of the k classes; what CLIP said alone, if the model is told so."""
    if model.ensemble == "clip":
        return clip
    seen = [vocabulary.is_seen(number) for number in class_ids]
    return ensembled(stage1, clip, seen, model.ensemble_weight)


def score_image(
    model: ZssegPlus,
    image: Tensor,
    texts: Tensor,
    request: Request,
    regions: Sequence[ObjectRegion] | None,
    first: ObjectRegion | None,
) -> list[tuple[Scores, dict[str, ProposalMaps]]]:
    """Scores of one image, per region, or of the objects that are found in it.

    Args:
        model: the system.
        image: uint8 (3, H, W) RGB.
        texts: (classes, embed_dim).
        request: which classes are scored.
        regions: the objects; None to find them.
        first: the region that stage 2 uses for all, if the model does as released.
    """
    vocabulary, class_ids = request.vocabulary, request.class_ids
    prepared = prepare_image(model, image)
    if regions is None:
        masks, unprompted = _found(model, prepared, texts, vocabulary)
    else:
        masks = [(region.object_id, resized_mask(region, prepared, model.label_resize)) for region in regions]
    results = []
    if masks:
        # stage 1 on all objects of the image at once
        prompts = joined_inputs([mask[None].float() for _, mask in masks], DIVISOR)[:, 0]
        proposals = model.propose(prepared.features, prompts, last_only=True)
        logits = model.class_logits(proposals.class_embeddings[-1], texts)
        for number, (object_id, mask) in enumerate(masks):
            stage2 = (mask, object_id)
            if regions is not None and model.stage2_object == "first_as_released":
                stage2 = (resized_mask(first, prepared, model.label_resize), first.object_id)
            arguments = logits[number], proposals.mask_logits[-1, number], stage2
            results.append(score_object(model, prepared, *arguments, texts, request))
    if regions is not None:
        return [
            (Scores(values, class_ids, None, prepared.image_size, probabilities=True), maps) for values, maps in results
        ]
    # every object's scores inside its mask
    whole = torch.zeros(len(class_ids), *prepared.size, device=model.device)
    background = torch.ones(prepared.size, device=model.device)
    for (_, mask), (values, _) in zip(masks, results, strict=True):
        whole[:, mask], background[mask] = values[:, mask], 0.0
    found = {kind: joined([maps[kind] for _, maps in results]) for kind in (results[0][1] if results else ())}
    if request.inspected and not results:
        found = {"proposals": proposal_maps(prepared.pixels, *unprompted, prepared.padded_size, vocabulary.parts)}
    return [(Scores(whole, class_ids, background, prepared.image_size, probabilities=True), found)]


def _found(
    model: ZssegPlus, image: PreparedImage, texts: Tensor, vocabulary: PartVocabulary
) -> tuple[list[tuple[int, Tensor]], tuple[Tensor, Tensor]]:
    """Objects that stage 1 unprompted and CLIP agree upon: id and mask, bool (h, w); and what stage 1 proposed."""
    nothing = torch.zeros(1, *image.padded_size, device=model.device)
    proposals = model.propose(image.features, nothing, last_only=True)
    probabilities = model.class_logits(proposals.class_embeddings[-1, 0], texts).softmax(-1)[:, :-1]
    features = dense_features(model.clip, squashed(image.pixels, model.size.crop_side)[None])[0]
    mask_logits = proposals.mask_logits[-1, 0]
    sizes = image.size, image.padded_size
    found = find_objects(probabilities, mask_logits, features, texts, vocabulary, *sizes, model.size.clip.temperature)
    return found, (probabilities, mask_logits)
